"""What the documents say is true now: drift is a failing test."""

import importlib.util
import json
import re
import shlex
from collections.abc import Callable
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
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^uv run (glance (?:check|schedule|train)\b[^#\n]*)", README, re.MULTILINE)

EXPORTS = re.findall(r"^uv run (glance (?:export|info)\b[^#\n]*)", README, re.MULTILINE)

SAMPLING_PAGE = (ROOT / "docs/sampling.md").read_text(encoding="utf-8")
# what is fetched from the Hub cannot be planned offline
SAMPLING = [
    command
    for command in re.findall(
        r"^(?:uv run )?(glance infer\b.*)$", README + SAMPLING_PAGE, re.MULTILINE
    )
    if "owner/" not in command and "CSU-JPG" not in command
]

DISTILLING = re.findall(
    r"^(?:uv run )?(glance distill\b[^#\n]*)",
    README + (ROOT / "docs/distill.md").read_text(encoding="utf-8"),
    re.MULTILINE,
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


@pytest.mark.parametrize("command", SAMPLING)
def test_the_commands_that_sample_can_be_planned(
    glance: Callable, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_what_the_pages_speak_of()

    done = glance(
        *shlex.split(command.partition(" #")[0])[1:], "--device", "cpu", "--dry-run", "--json"
    )

    assert (done.code, done.err) == (0, done.err)
    assert json.loads(done.out)["pictures"]


def make_what_the_pages_speak_of() -> None:
    """The files that the commands name."""
    write_run(Path("runs/glance"))
    for name in ("slow", "fast"):
        write_lora(Path(f"{name}.safetensors"))
    picture = Path("harbour.png")
    plan = plan_generation(InferRequest(prompts=("x",), device="cpu", output=picture))
    write_image(Image.new("RGB", (8, 8)), picture, plan.images[0].record)
    lines = re.search(r"```json\n(.*?)```", SAMPLING_PAGE, re.DOTALL)
    assert lines is not None
    Path("prompts.jsonl").write_text(lines[1])


@pytest.mark.parametrize("command", COMMANDS)
def test_the_readmes_commands_work(
    glance: Callable, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    arguments = shlex.split(command)[1:]
    dry = ["--dry-run"] if arguments[0] == "train" and "--dry-run" not in arguments else []

    assert glance(*arguments, *dry).code == 0


@pytest.mark.parametrize("command", DISTILLING)
def test_the_commands_that_distil_can_be_planned(glance: Callable, command: str) -> None:
    Path("prompts.txt").write_text("".join(f"a hill, number {number}\n" for number in range(16)))
    write_lora(Path("style.safetensors"))

    words = command.replace("--device cpu", "").replace("--device cuda", "")
    done = glance(*shlex.split(words)[1:], "--device", "cuda", "--dry-run", "--json")

    assert (done.code, done.err) == (0, done.err)
    assert json.loads(done.out)["recording"]["paths"]


@pytest.mark.parametrize("command", EXPORTS)
def test_the_readmes_commands_that_export_work(glance: Callable, command: str) -> None:
    run = write_run(Path("runs/glance"))
    run.data.mkdir()
    (run.data / "x.txt").write_text("a lighthouse\n")

    assert glance(*shlex.split(command)[1:]).code == 0


def test_the_readme_has_commands_to_try() -> None:
    assert len(COMMANDS) >= 3
    assert len(EXPORTS) == 4
    assert DISTILLING


def test_the_readmes_tree_names_every_room() -> None:
    tree = README.split("## Where things are")[1]
    rooms = {path.name for path in (ROOT / "glance").iterdir()} - {
        "__init__.py", "__main__.py", "__pycache__", "py.typed", "assets",
    }  # fmt: skip

    assert [room for room in sorted(rooms) if not re.search(rf"^  {room}[/ ]", tree, re.M)] == []


def test_the_readme_is_short_enough_to_read() -> None:
    assert len(README.splitlines()) <= 200
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) <= 120


def test_the_changelogs_newest_version_is_this_one() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()

    assert re.findall(r"^## \[(\d[^]]*)\]", changelog, re.M)[0] == __version__


def test_links_between_documents_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)|src=\"([^\"]+)\"", README)

    assert [link for pair in links for link in pair if link and not (ROOT / link).exists()] == []


def test_nobody_is_told_to_install_what_no_index_has() -> None:
    """glance is installed from its clone: `pip install glance-lora` finds nothing."""
    told = re.compile(r"pip install ['\"]?glance|glance-lora\[")
    pages = [README, *(path.read_text() for path in (ROOT / "docs").glob("*.md"))]
    code = [path.read_text() for path in (ROOT / "glance").rglob("*.py")]

    assert [found[0] for text in (*pages, *code) for found in told.finditer(text)] == []


def test_the_files_that_contributors_are_sent_to_are_there() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()

    named = re.findall(r"`((?:glance|tests|docs|configs)/[\w./]*)`", page)

    assert len(named) > 30
    assert [name for name in named if not (ROOT / name).exists()] == []
