"""Ways to glance beside its clone: the wheel, the Dockerfile, the notebook."""

import ast
import json
import re
import shlex
import shutil
import sys
import tomllib
import zipfile
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest
from fakes.pairs import write_run
from hatchling.build import build_wheel
from packaging.metadata import Metadata
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from glance import __version__

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
NOTEBOOK = ROOT / "notebooks/glance.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]
COMMANDS = re.findall(r"^!(glance .*)", "\n".join(CODE), re.M)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """glance's wheel, made by the backend that pyproject.toml names."""
    folder = tmp_path_factory.mktemp("wheel")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)  # where a backend is called, by PEP 517
        return zipfile.ZipFile(folder / build_wheel(str(folder)))


def test_the_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "glance").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    found = {name for name in wheel.namelist() if ".dist-info/" not in name}

    assert found == package
    assert "glance/assets/small-flux/transformer/diffusion_pytorch_model.safetensors" in found
    assert sum(one.compress_size for one in wheel.infolist()) < 8e6


def test_the_wheels_metadata_pins_what_fits_only_itself(wheel: zipfile.ZipFile) -> None:
    """Nothing of [tool.uv] travels in a wheel."""
    [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = Metadata.from_email(wheel.read(name))
    exact = {one.name: str(one.specifier) for one in metadata.requires_dist or ()}

    assert str(metadata.version) == __version__
    assert str(metadata.requires_python) == "<3.14,>=3.12"
    for fragile in (
        *("simpletuner", "torch", "torchvision", "torchaudio", "transformers", "diffusers"),
        *("peft", "accelerate"),
    ):
        assert re.fullmatch(r"==\d+\.\d+\.\d+", exact[fragile]), fragile


def test_what_is_imported_is_declared() -> None:
    """Else it is there only for as long as another package needs it."""
    project = PROJECT["project"]
    extras = project["optional-dependencies"].values()
    declared = {
        canonicalize_name(Requirement(text).name)
        for text in (*project["dependencies"], *chain.from_iterable(extras))
    }
    imported = {
        name.partition(".")[0]
        for path in (ROOT / "glance").rglob("*.py")
        if "inside" not in path.parts  # that is the trainer's environment
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [one.name for one in node.names]
        )
    }
    others = {"PIL": "pillow", "yaml": "pyyaml", "pydantic_core": "pydantic"}
    others["pynvml"] = "nvidia-ml-py"
    packages = {
        canonicalize_name(others.get(name, name))
        for name in imported - {"glance"} - sys.stdlib_module_names
    }

    assert packages - declared == set()


def test_every_way_takes_the_packages_of_the_same_day() -> None:
    day = PROJECT["tool"]["uv"]["exclude-newer"]
    for path in (NOTEBOOK, ROOT / "docs/install.md"):
        told = re.findall(r"--exclude-newer (\S+)", path.read_text(encoding="utf-8"))
        assert set(told) == {day}, path


def test_the_dockerfile_copies_what_is_there_and_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    taken = {line[1:] for line in ignored if line.startswith("!")}
    sources = {
        word
        for line in re.findall(r"^COPY (.*)", DOCKERFILE, re.M)
        for word in line.split()[:-1]
        if not word.startswith("--")
    }

    assert "*" in ignored
    assert {source for source in sources if not (ROOT / source).exists()} == set()
    assert {source for source in sources if source.partition("/")[0] not in taken} == set()
    # what the backend builds the wheel of
    named = {PROJECT["project"]["readme"], *PROJECT["project"]["license-files"], "pyproject.toml"}
    assert named | {"glance"} <= sources


def test_the_dockerfile_has_the_python_of_the_clone() -> None:
    assert f"FROM python:{(ROOT / '.python-version').read_text().strip()}-slim" in DOCKERFILE


def test_the_notebook_is_one_and_holds_no_output() -> None:
    document = json.loads(NOTEBOOK.read_text(encoding="utf-8"))

    assert (document["nbformat"], document["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in CELLS}) == len(CELLS)
    for cell in CELLS:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
    for text in CODE:  # a line that begins so is IPython's
        ast.parse(re.sub(r"^[!%].*", "", text, flags=re.M))


@pytest.mark.parametrize("command", COMMANDS)
def test_the_notebooks_commands_can_be_planned(invoke: Callable, command: str) -> None:
    run = write_run(Path("runs/picture"), family="flux2_klein")
    run.data.mkdir()
    (run.data / "x.txt").write_text("a black square\n")
    Image.new("RGB", (1024, 1024)).save("picture.png", format="JPEG")  # as an upload may be
    Path("picture.txt").write_text("a black square\n")
    words = shlex.split(command)[1:]
    if "--dry-run" in invoke(*words, "--help").out:
        words = [word for word in words if word != "--dry-run"] + ["--dry-run"]
    elif words[0] in ("demo", "doctor"):
        words.append("--help")

    done = invoke(*words)

    assert done.code == 0, done.err


def test_the_notebooks_cells_of_python_run_where_there_is_no_colab(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Image.new("RGB", (64, 64)).save("mine.jpg")
    write_run(Path("runs/picture"))
    monkeypatch.setitem(sys.modules, "google.colab", None)
    for cell in ("picture", "take"):
        [source] = ["".join(one["source"]) for one in CELLS if one["id"] == cell]
        source = source.replace('PICTURE = ""', 'PICTURE = "mine.jpg"')
        exec(re.sub(r"^!.*", "", source, flags=re.M), {"shutil": shutil})

    assert Path("picture.txt").read_text().startswith("a white lighthouse")
    assert "picture/glance.json" in zipfile.ZipFile("picture.zip").namelist()
