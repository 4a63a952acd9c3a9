"""`glance export` and the workflow in a picture, as users meet them."""

import json
from pathlib import Path

import pytest
from fakes.commands import Glance
from fakes.pairs import write_run
from PIL import Image

from glance.core.phase import Phase
from glance.interop.export import open_source
from glance.runs.folder import RunFolder
from glance.sampling.generate import describe_workflow
from glance.sampling.plan import plan_generation
from glance.sampling.request import InferRequest


@pytest.fixture
def run() -> RunFolder:
    made = write_run(Path("runs/x"), model="black-forest-labs/FLUX.1-dev")
    made.data.mkdir()
    (made.data / "x.txt").write_text("a grey circle\n")
    Image.new("RGB", (8, 8)).save(made.data / "x.png")
    return made


@pytest.mark.parametrize("tool", ["comfyui", "diffusers"])
def test_a_folder_is_made_of_the_newest_run_and_replaced_by_force_alone(
    invoke: Glance, run: RunFolder, tool: str
) -> None:
    name = f"{open_source(run.path).name}-{tool}"

    done, again = invoke("export", tool), invoke("export", tool)
    forced = invoke("export", tool, run.path, "--force", "--json")

    assert (done.code, done.out) == (0, f"{name}\n")
    assert done.err.startswith("using the newest finished run, runs/x\n")
    found = sorted(path.name for path in Path(name).iterdir())
    assert "README.md" in found
    assert (again.code, forced.code) == (4, 0)
    assert forced.document == {"folder": name, "files": found, "notes": []}


def test_a_repository_is_shown_before_it_is_written_to_a_folder(
    invoke: Glance, run: RunFolder
) -> None:
    command = ("export", "hub", run.path, "--repo", "me/my-pair", "--license", "mit")
    command = (*command, "--output", "there")
    shown = invoke(*command, "--dry-run")
    planned = invoke(*command, "--dry-run", "--json")
    assert not Path("there").exists()

    done = invoke(*command, "--json")

    name, card = open_source(run.path).name, Path("there/README.md").read_text()
    written = done.document["files"]
    assert written == sorted(file["path"] for file in planned.document["files"])
    assert set(written) >= {
        *("README.md", "slow.safetensors", "fast.safetensors", "generate.py"),
        *(f"comfyui/{name}-slow.safetensors", "comfyui/workflow.json"),
    }
    assert not any(path.startswith("sample/") for path in written)
    assert "a grey circle" not in planned.out
    assert "license: mit\n" in card
    assert card in shown.out


def test_a_picture_carries_the_workflow_of_its_export(invoke: Glance, run: RunFolder) -> None:
    invoke("export", "comfyui", run.path, "--prompt", "a mill", "--seed", 3, "--output", "there")
    plan = plan_generation(InferRequest(prompts=("a mill",), seeds=(3,), run=run.path))

    carried = describe_workflow(plan, plan.images[0]).to_api()

    exported = json.loads(Path("there/workflow-api.json").read_text())
    (save,) = [node for node in exported.values() if node["class_type"] == "SaveImage"]
    save["inputs"]["filename_prefix"] = "glance"
    assert carried == exported


def test_loras_that_lie_anywhere_keep_their_names_in_a_picture(run: RunFolder) -> None:
    lora = Path("mine.safetensors")
    lora.write_bytes(run.lora(Phase.SLOW).read_bytes())
    request = InferRequest(
        prompts=("x",), slow_lora=str(lora), fast_lora=str(run.lora(Phase.FAST)), model="acme/tiny"
    )

    assert plan_generation(request).names == {
        Phase.SLOW: "mine.safetensors",
        Phase.FAST: "glance-fast-fast.safetensors",
    }
