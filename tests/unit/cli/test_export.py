"""`glance export` and the workflow in a picture, as users meet them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
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
def test_a_folder_is_made_of_the_newest_run(glance: Callable, run: RunFolder, tool: str) -> None:
    name = f"{open_source(run.path).name}-{tool}"

    done = glance("export", tool)

    assert (done.code, done.out) == (0, f"{name}\n")
    assert done.err.startswith("using the newest finished run, runs/x\n")
    assert (Path(name) / "README.md").is_file()


@pytest.mark.parametrize("tool", ["comfyui", "diffusers"])
def test_json_lists_every_file(glance: Callable, run: RunFolder, tool: str) -> None:
    done = glance("export", tool, run.path, "--output", "there", "--json")

    found = sorted(path.name for path in Path("there").iterdir())
    assert done.document == {"folder": "there", "files": found, "notes": []}


@pytest.mark.parametrize("tool", ["comfyui", "diffusers"])
def test_a_second_export_needs_force(glance: Callable, run: RunFolder, tool: str) -> None:
    def export(*more: str) -> int:
        return int(glance("export", tool, run.path, "--output", "there", *more).code)

    assert [export(), export(), export("--force")] == [0, 4, 0]


@pytest.mark.parametrize("tool", ["comfyui", "diffusers", "hub"])
def test_no_run_is_bad_input(glance: Callable, tool: str) -> None:
    more = ["--repo", "x", "--dry-run"] if tool == "hub" else []

    done = glance("export", tool, "nowhere", *more)

    assert done.code == 4
    assert "not a run folder: nowhere" in done.err


def test_the_dry_run_of_a_repository_shows_all_of_it(glance: Callable, run: RunFolder) -> None:
    done = glance("export", "hub", run.path, "--repo", "my-pair", "--dry-run", "--json")

    paths = [file["path"] for file in done.document["files"]]
    name = open_source(run.path).name
    assert done.code == 0
    assert {"README.md", "slow.safetensors", "fast.safetensors", "generate.py"} <= set(paths)
    assert {f"comfyui/{name}-slow.safetensors", "comfyui/workflow.json"} <= set(paths)
    assert not any(path.startswith("sample/") for path in paths)
    assert "a grey circle" not in done.out


def test_a_repository_can_be_written_to_a_folder(glance: Callable, run: RunFolder) -> None:
    arguments = ("export", "hub", run.path, "--repo", "me/my-pair", "--license", "mit")
    shown = glance(*arguments, "--dry-run", "--output", "there")
    assert not Path("there").exists()

    done = glance(*arguments, "--output", "there", "--json")

    card = Path("there/README.md").read_text()
    assert done.document["files"] == sorted(done.document["files"])
    assert {"README.md", "slow.safetensors", "comfyui/workflow.json"} <= set(done.document["files"])
    assert "license: mit\n" in card
    assert card in shown.out


def test_a_picture_carries_the_workflow_of_its_export(glance: Callable, run: RunFolder) -> None:
    glance("export", "comfyui", run.path, "--prompt", "a mill", "--seed", 3, "--output", "there")
    plan = plan_generation(InferRequest(prompts=("a mill",), seeds=(3,), run=run.path))

    carried = describe_workflow(plan, plan.images[0])

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

    plan = plan_generation(request)

    assert plan.names == {
        Phase.SLOW: "mine.safetensors",
        Phase.FAST: "glance-fast-fast.safetensors",
    }
