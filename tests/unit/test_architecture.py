"""The shape of the code, held by tests: layers, the torch island, one writer, one starter."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "glance"

# From the bottom up: a module imports only what stands above it in this list, or in its own room.
ROOMS = (
    *("core", "schedule", "models", "runs", "sampling", "evaluation", "training"),
    *("interop", "batch", "web", "cli", "__main__"),
)
HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate", "simpletuner", "safetensors")


@cache
def modules() -> list[tuple[str, ast.Module]]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if "inside" not in path.parts:  # what runs in the trainer's own process
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found.append((name.removesuffix(".__init__"), tree))
    return found


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


@cache
def arrows() -> set[tuple[str, str]]:
    """Who imports whom, between rooms."""
    return {
        (room(name), room(target))
        for name, tree in modules()
        for target in imports(tree)
        if room(name) and target.startswith("glance.") and room(target) in ROOMS
        if room(name) != room(target)
    }


def test_the_rooms_are_these() -> None:
    assert {room(name) for name, _ in modules()} - {""} == set(ROOMS)
    assert len(ROOMS) <= 12


def test_the_list_for_contributors_has_their_order() -> None:
    tree = (ROOT / "CONTRIBUTING.md").read_text().split("## Where things are")[1]

    listed = re.findall(r"^  (\w+)[/.]", tree, re.MULTILINE)

    assert listed == [name for name in ROOMS if name != "__main__"]


def test_imports_only_go_down() -> None:
    upward = [
        f"{one} imports {two}" for one, two in arrows() if ROOMS.index(two) > ROOMS.index(one)
    ]

    assert upward == []
    assert len(arrows()) <= 60


def test_no_chain_of_rooms_is_longer_than_ten() -> None:
    height: dict[str, int] = {}
    for name in ROOMS:
        below = [height[two] for one, two in arrows() if one == name]
        height[name] = 1 + max(below, default=0)

    assert max(height.values()) <= 10


def test_torch_lives_on_its_island_and_simpletuner_is_never_imported() -> None:
    outside = [
        name
        for name, tree in modules()
        if not name.startswith("glance.sampling.pipeline")
        for target in imports(tree)
        if target.split(".")[0] in HEAVY[:6]
    ]

    assert outside == []


def test_ray_is_imported_where_a_batch_is_sent_there_and_nowhere_else() -> None:
    importers = [name for name, tree in modules() if "ray" in set(imports(tree))]
    script = "import sys, glance.batch.on_ray; sys.exit('ray' in sys.modules)"

    assert importers == ["glance.batch.foreman", "glance.batch.on_ray"]
    assert run(script) == (0, "")


def test_only_the_runner_and_its_supervisor_start_processes() -> None:
    starters = [name for name, tree in modules() if "subprocess" in set(imports(tree))]

    assert starters == [
        "glance.cli._viewer",  # the system's viewer, if asked
        "glance.training.simpletuner.runner",
        "glance.training.simpletuner.supervisor",
        "glance.web.jobs",  # glance itself, which outlives the page's server
    ]


def test_only_the_console_writes_to_the_terminal() -> None:
    writers = {
        name
        for name, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("stdout", "stderr")
        if isinstance(node.value, ast.Name) and node.value.id == "sys"
    }

    assert writers == {
        "glance.cli",
        "glance.cli._app",
        "glance.cli.console",
        "glance.training.simpletuner.supervisor",
    }


def test_no_file_but_the_table_names_a_family() -> None:
    naming = [
        name
        for name, tree in modules()
        for node in ast.walk(tree)
        if not name.startswith("glance.models.families")
        and isinstance(node, ast.Compare)
        and '"flux"' in ast.unparse(node)
    ]

    assert naming == []


def test_every_module_says_what_it_owns() -> None:
    assert [name for name, tree in modules() if not ast.get_docstring(tree)] == []


def test_files_stay_short() -> None:
    long = [p.name for p in PACKAGE.rglob("*.py") if len(p.read_text().splitlines()) > 600]

    assert long == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["check", "x.png"],
        ["schedule"],
        ["train", "--image", "x.png", "--device", "cuda", "--dry-run"],
        ["distill", "--device", "cuda", "--dry-run"],
        ["schedule", "--schedule", "auto"],
        ["infer", "--prompt", "x"],
        ["batch", "infer", "--prompt", "x"],
        ["info", "x.safetensors"],
        ["import", "--slow-lora", "x", "--fast-lora", "y"],
        ["export", "comfyui", "x"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_quick_commands_do_not_import_torch(arguments: list[str], pair: Path) -> None:
    script = (
        "import sys\nfrom glance.cli import app\n"
        f"try:\n    app({arguments!r})\nexcept SystemExit:\n    pass\n"
        f"heavy = {{name.split('.')[0] for name in sys.modules}} & set({HEAVY[:6]!r})\n"
        "sys.exit(', '.join(heavy) or 0)"
    )

    assert run(script) == (0, "")


def run(script: str) -> tuple[int, str]:
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr if done.returncode else ""


def test_no_commands_help_needs_pydantic_or_pillow() -> None:
    script = (
        "import sys, glance.cli; sys.exit(bool({'pydantic', 'PIL', 'rich'} & set(sys.modules)))"
    )

    assert run(script) == (0, "")
