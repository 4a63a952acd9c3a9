"""What `glance export diffusers` writes, and what it leaves alone; its script is read, not run."""

import ast
import importlib.metadata
from pathlib import Path
from typing import Any

import pytest
from fakes.pairs import write_run

from glance.core.errors import InputError
from glance.core.phase import Phase
from glance.interop.diffusers import DIFFUSERS, export_diffusers, render_script
from glance.interop.export import Source, open_source
from glance.models.families import FAMILIES, find_family
from glance.models.lora.file import read_lora
from glance.sampling.settings import resolve_sample_settings
from glance.schedule.file import read_schedule_file

OUT = Path("out")
FILES = {"README.md", "fast.safetensors", "generate.py", "schedule.json", "slow.safetensors"}


@pytest.fixture
def source() -> Source:
    """A finished run that was trained on acme/tiny."""
    return open_source(write_run(Path("runs/cat")).path)


def options(script: str) -> dict[str, dict[str, Any]]:
    """Return what each add_argument call says in plain values, by its flag."""
    calls = [node for node in ast.walk(ast.parse(script)) if isinstance(node, ast.Call)]
    return {
        call.args[0].value: {
            word.arg: word.value.value
            for word in call.keywords
            if isinstance(word.value, ast.Constant)
        }
        for call in calls
        if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument"
    }


def render(name: str) -> str:
    family = find_family(name)
    settings = resolve_sample_settings(family, prompt="x")
    return render_script(family, settings, model=family.default_model, prompt=None)


def test_the_folder_holds_both_loras_the_schedule_and_the_script(source: Source) -> None:
    done = export_diffusers(source, OUT)

    assert {path.as_posix() for path in done.files} == FILES
    assert {path.name for path in OUT.iterdir()} == FILES
    for phase in Phase:
        exported = read_lora(OUT / f"{phase}.safetensors")
        assert exported.tensors == read_lora(source.run.lora(phase)).tensors
    assert read_schedule_file(OUT / "schedule.json").resolve() == source.schedule
    readme = (OUT / "README.md").read_text()
    assert str(Path.cwd()) not in readme
    assert readme.startswith(f"# {source.name}: FLUX.1 in 10 steps\n")
    assert "[acme/tiny](https://huggingface.co/acme/tiny)" in readme
    found = options((OUT / "generate.py").read_text())
    assert found["--model"] == {"default": "acme/tiny"}
    assert (found["--width"]["default"], found["--height"]["default"]) == (64, 64)  # the trained
    assert done.notes == ()


@pytest.mark.parametrize("model", ["model", "../../bases/flux", "parts/base"])
def test_a_base_model_in_a_folder_has_to_be_named(model: str) -> None:
    run = write_run(Path("runs/cat"), model=model)
    (run.path / model).mkdir(parents=True)

    done = export_diffusers(open_source(run.path), OUT)

    assert options((OUT / "generate.py").read_text())["--model"] == {"required": True}
    readme = (OUT / "README.md").read_text()
    assert "--model path/to/the/base" in readme
    assert "bases" not in readme
    assert done.notes == (
        "the base model is a folder and no part of the export: generate.py needs --model",
    )


def test_a_single_file_is_refused() -> None:
    run = write_run(Path("runs/cat"))
    text = run.manifest.read_text()
    run.manifest.write_text(
        text.replace('"transformer": null', '"transformer": "../../x.safetensors"')
    )

    with pytest.raises(InputError, match=r"the single file x\.safetensors"):
        export_diffusers(open_source(run.path), OUT)

    assert not OUT.exists()


@pytest.mark.parametrize("prompt", ['say "hi"', "back\\slash\nand line", "ein Größenwahn\u2028%s"])
def test_any_prompt_becomes_the_default(source: Source, prompt: str) -> None:
    export_diffusers(source, OUT, prompt=prompt)

    script = (OUT / "generate.py").read_text(encoding="utf-8")
    assert options(script)["--prompt"] == {"default": prompt}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_familys_script_needs_diffusers_alone_and_is_easy_to_look_at(name: str) -> None:
    script = render(name)

    nodes = list(ast.walk(ast.parse(script)))
    named = {item.name for node in nodes if isinstance(node, ast.Import) for item in node.names}
    named |= {node.module.split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
    assert named <= {"argparse", "json", "pathlib", "sys", "torch", "diffusers", "transformers"}
    assert f"{find_family(name).pipeline}.from_pretrained" in script
    lines = script.splitlines()
    assert len(lines) <= 110
    assert [line for line in lines if len(line) > 100 or line != line.rstrip()] == []


@pytest.mark.parametrize("name", [name for name, row in FAMILIES.items() if row.edits])
def test_what_edits_asks_for_a_reference_and_takes_its_shape(name: str) -> None:
    found = options(render(name))

    assert found["--source-image"] == {"required": True}
    assert "default" not in found["--width"]


def test_the_proven_version_is_the_installed_one() -> None:
    assert importlib.metadata.version("diffusers") == DIFFUSERS
