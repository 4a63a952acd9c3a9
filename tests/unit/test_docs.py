"""What the documents say is true now: drift is a failing test."""

import ast
import importlib.util
import json
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from fakes.pairs import write_lora, write_run
from PIL import Image

from glance import __version__
from glance.models.families import FAMILIES
from glance.sampling.plan import plan_generation
from glance.sampling.provenance import write_image
from glance.sampling.request import InferRequest

ROOT = Path(__file__).parents[2]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md")))
}
MARKS = ("gpu", "network", "long")
"""What may stand behind ```bash: why no test runs the commands of that block. Without a mark they
are run: those of the README for real (tests/train/test_readme.py), all others here."""
OTHERS = re.compile(
    r"pip install uv|uv sync( --extra \w+)?|uv run (pytest|just\b.*|pre-commit install)"
    r"|source \.venv/bin/activate|uv run python -m benchmarks\b.*"
)
"""What else a block may hold: CI runs it, or a contributor does."""


def commands() -> Iterator[tuple[str, str, str]]:
    """Yield page, mark and line of every command of the pages."""
    for page, text in PAGES.items():
        for mark, block in re.findall(r"^```bash *([^\n]*)\n(.*?)^```$", text, re.M | re.S):
            for line in re.sub(r"\\\n\s*", "", block).splitlines():
                for command in re.split(" && ", re.sub(r"\s+# .*", "", line)):
                    yield page, mark, command


GLANCE = sorted(
    {
        (mark, command.removeprefix("uv run "))
        for _, mark, command in commands()
        if re.match(r"(uv run )?glance\b", command)
    }
)


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_configs_are_what_dry_run_renders(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered = dict(script("render_configs").render())

    found = {
        path.relative_to(ROOT / "configs"): json.loads(path.read_text())
        for path in (ROOT / "configs").rglob("*.json")
    }
    assert found == rendered


def test_the_generated_pages_are_what_they_are_generated_from() -> None:
    for name, text in script("render_docs").render().items():
        assert (ROOT / "docs" / name).read_text() == text


def test_the_page_of_commands_holds_every_one() -> None:
    page = (ROOT / "docs/cli.md").read_text()
    names = re.findall(r"^  (\w+)  +\S", page.partition("Commands:")[2].partition("```")[0], re.M)

    assert "train" in names
    assert [name for name in names if f"\n## glance {name}\n" not in page] == []


@pytest.mark.parametrize("kind", ["families", "distilled"])
def test_every_familys_proof_is_recorded(kind: str) -> None:
    proofs = json.loads((ROOT / "docs/proofs.json").read_text())[kind]

    assert {name for name, row in proofs.items() if row["passed"] and not row["failed"]} == set(
        FAMILIES
    )


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the pages speak of."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "data").symlink_to(ROOT / "data")
    families = {"glance": "flux", "cat": "flux", "sunset": "qwen_image_edit_2511"}
    for name, family in families.items():
        run = write_run(folder / "runs" / name, family=family)
        run.data.mkdir()
        (run.data / "x.txt").write_text("a lighthouse\n")
        os.utime(run.path / "glance.json", (0, 0 if family != "flux" else 1))
    for number, name in enumerate(("slow", "fast", "style")):
        write_lora(folder / f"{name}.safetensors", fill=1 + number)
    for steps in (4, 10):
        found = ROOT / "tests/fixtures/older/schedules/optimal.json"
        shutil.copy(found, folder / f"optimal-1024x1024-{steps}.json")
    Image.new("RGB", (1024, 1024)).save(folder / "x.png")
    (folder / "x.txt").write_text("a black square\n")
    picture = folder / "harbour.png"
    request = InferRequest(run=folder / "runs/glance", prompts=("x",), device="cpu", output=picture)
    write_image(Image.new("RGB", (8, 8)), picture, plan_generation(request).images[0].record)
    shown = {
        "prompts.jsonl": ("docs/sampling.md", "json"),
        "pair.yaml": ("docs/cli.md", "yaml"),
        "jobs.yaml": ("docs/batch.md", "yaml"),
    }
    for name, (page, kind) in shown.items():
        block = re.search(rf"```{kind}\n(.*?)```", PAGES[page], re.DOTALL)
        (folder / name).write_text(block[1] if block else "")
    settings = re.search(r"```yaml\n(.*?)```", PAGES["docs/cli.md"], re.DOTALL)
    assert settings is not None
    (folder / "pair.yaml").write_text(settings[1])
    (folder / "pictures").mkdir()
    for name in ("harbour", "mill"):
        picture = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
        picture.putpixel((0, 0), (len(name), 0, 0))
        picture.save(folder / f"pictures/{name}.png")
        (folder / f"pictures/{name}.txt").write_text(f"a {name}\n")
    for name in ("prompts", "held-out"):
        text = "".join(f"a hill, number {number}\n" for number in range(16))
        (folder / f"{name}.txt").write_text(text)
    (folder / "models").mkdir()
    (folder / "models/my-flux").symlink_to(ROOT / "glance/assets/small-flux")
    return folder


@pytest.mark.parametrize(("mark", "command"), GLANCE)
def test_the_pages_commands_work(
    invoke: Callable, laid_out: Path, monkeypatch: pytest.MonkeyPatch, mark: str, command: str
) -> None:
    """They are run, but for what is long: that is planned, or its flags are looked at."""
    words = shlex.split(command)[1:]
    shutil.copytree(laid_out, ".", symlinks=True, dirs_exist_ok=True)
    monkeypatch.setenv("HOME", str(Path.cwd()))
    is_plannable = "--dry-run" in invoke(*words, "--help").out
    # what only tests/train can do: there is no trained run here
    is_elsewhere = words[0] == "demo" or "--resume" in words
    if words[0] in ("train", "distill"):
        shutil.rmtree("runs")  # theirs are not there yet
        if mark == "gpu" and "--device" not in words:
            words += ["--device", "cuda"]
    if is_elsewhere or (mark and not (is_plannable and mark == "gpu")):
        words.append("--help")
    elif is_plannable and "--dry-run" not in words:
        words.append("--dry-run")

    done = invoke(*words)

    assert done.code == 0, done.err


def test_every_command_of_the_pages_is_one_that_is_tried() -> None:
    strange = [
        (page, command)
        for page, mark, command in commands()
        if not mark and not re.match(r"(uv run )?glance\b", command)
        if not OTHERS.fullmatch(command)
    ]

    assert strange == []
    assert {mark for _, mark, _ in commands()} <= {"", *MARKS}
    assert len(GLANCE) > 40
    for page, text in PAGES.items():  # one that no block holds would not be seen
        assert re.findall(r"^(?: {4}|\t)(?:uv run )?glance .*", text, re.M) == [], page


def test_the_tree_names_every_room() -> None:
    tree = PAGES["CONTRIBUTING.md"].split("## Where things are")[1]
    rooms = {path.name for path in (ROOT / "glance").iterdir()} - {
        "__init__.py", "__main__.py", "__pycache__", "py.typed", "assets",
    }  # fmt: skip

    assert [room for room in sorted(rooms) if not re.search(rf"^  {room}[/ ]", tree, re.M)] == []


def test_the_readme_is_short_enough_to_read() -> None:
    assert len(PAGES["README.md"].splitlines()) <= 120
    assert len(PAGES["CONTRIBUTING.md"].splitlines()) <= 152


def test_the_changelogs_newest_version_is_this_one() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()

    assert re.findall(r"^## \[(\d[^]]*)\]", changelog, re.M)[0] == __version__


def test_links_between_documents_lead_somewhere() -> None:
    broken = []
    for page, text in PAGES.items():
        folder = (ROOT / page).parent
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        for link, anchor, image in re.findall(
            r"\]\((?!http)([^)#\s]*)(?:#([^)]+))?\)|src=\"([^\"]+)\"", prose
        ):
            there = folder / (link or image) if link or image else ROOT / page
            if not there.exists() or (anchor and anchor not in anchors(there)):
                broken.append((page, link or image, anchor))

    assert broken == []


def anchors(page: Path) -> set[str]:
    """Return what GitHub makes of the page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


def test_the_index_names_every_page() -> None:
    index = PAGES["docs/README.md"]

    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}

    assert [name for name in sorted(pages) if f"]({name})" not in index] == []


def test_the_messages_that_are_explained_are_ones_that_glance_says() -> None:
    quoted = re.findall(r"`([^`\n]*)`", PAGES["docs/troubleshooting.md"])
    messages = [one for one in quoted if re.match(r"[a-z.]+ (?!-)", one) and "glance " not in one]
    code = "\n".join(
        str(node.value)
        for path in (ROOT / "glance").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant)
    )

    unheard = [
        (message, part)
        for message in messages
        for part in re.split(r"\s*\.\.\.,?\s*", message)
        if part not in code
    ]

    assert unheard == []
    assert len(messages) > 12


def test_nobody_is_told_to_install_what_no_index_has() -> None:
    """glance is installed from its clone: `pip install glance-lora` finds nothing."""
    told = re.compile(r"pip install ['\"]?glance|glance-lora\[")
    code = [path.read_text() for path in (ROOT / "glance").rglob("*.py")]

    assert [found[0] for text in (*PAGES.values(), *code) for found in told.finditer(text)] == []


def test_the_files_that_contributors_are_sent_to_are_there() -> None:
    page = PAGES["CONTRIBUTING.md"]

    named = re.findall(r"`((?:glance|tests|docs|configs)/[\w./]*)`", page)

    assert len(named) > 30
    assert [name for name in named if not (ROOT / name).exists()] == []
