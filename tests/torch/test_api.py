"""The Python interface: light to import, and every example of its page works."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fakes.trainer import FakeSimpleTuner
from PIL import Image
from tiny_models.adapters import make_loras

import glance

ROOT = Path(__file__).parents[2]
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs/api.md").read_text(), re.DOTALL)


def test_importing_glance_imports_nothing_else() -> None:
    code = "import sys; import glance; print([n for n in sys.modules if n.startswith('glance.')])"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


def test_every_public_name_is_there_and_no_other() -> None:
    assert {getattr(glance, name) is not None for name in dir(glance)} == {True}
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        glance.nonsense  # noqa: B018


@pytest.fixture
def demo_run(run_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The folder in which the examples run: a trained pair, a picture, a trainer."""
    simpletuner = FakeSimpleTuner(tmp_path / "trainer")
    monkeypatch.setenv("PATH", str(simpletuner.folder), prepend=os.pathsep)
    shutil.copytree(ROOT / "data", "data")
    model = ROOT / "glance/assets/small-flux"
    shutil.rmtree(run_folder / "model")
    shutil.copytree(model, run_folder / "model")
    for phase, path in make_loras(model, run_folder / "made").items():
        shutil.copy(path, run_folder / f"output/glance-{phase}")
    run_folder.rename("runs/demo")


@pytest.mark.usefixtures("demo_run")
def test_every_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}

    for example in EXAMPLES:
        exec(compile(example, "docs/api.md", "exec"), names)

    assert Image.open("lake.png").size == (64, 64)
    assert [path.name for path in sorted(Path("out").iterdir())] == ["a-hill-1.png", "a-hill-2.png"]
    printed = capsys.readouterr().out
    assert "--width 100: it must be a multiple of 16 -> use --width 96" in printed
    assert "runs/glance/output/glance-slow/pytorch_lora_weights.safetensors" in printed
