"""What `glance export comfyui` writes, and what it leaves alone; no ComfyUI is needed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.pairs import LAYER, write_lora, write_run
from PIL import Image
from safetensors.numpy import save_file

from glance.core.errors import RunError
from glance.core.phase import Phase
from glance.interop.comfyui import export_comfyui, plan_comfyui
from glance.interop.export import Exported, Source, open_source
from glance.interop.hub import HubRequest, plan_hub
from glance.interop.importing import plan_import, run_import
from glance.interop.request import ImportRequest
from glance.models.lora.file import hash_data, read_header, read_lora
from glance.runs.folder import RunFolder
from glance.runs.manifest import load_manifest, record_schedule
from glance.schedule.lists import Schedule

OUT = Path("out")
CAPTION = "a grey circle"
DEV = "black-forest-labs/FLUX.1-dev"
EDIT = "qwen_image_edit_2509"
EDITS = {"family": EDIT, "model": "Qwen/Qwen-Image-Edit-2509"}


def make_run(path: Path = Path("runs/cat"), **settings: Any) -> RunFolder:
    """A finished run with its caption, and a picture to edit if its family does that."""
    run = write_run(path, **{"model": DEV, **settings})
    run.data.mkdir()
    (run.data / "x.txt").write_text(CAPTION + "\n", encoding="utf-8")
    if settings.get("family") == EDIT:
        run.references.mkdir()
        Image.radial_gradient("L").resize((128, 64)).save(run.references / "x.png")
        sample = load_manifest(run).sample
        assert sample is not None
        record(run, sample=sample.model_copy(update={"reference": "reference/x.png"}))
    return run


def record(run: RunFolder, **changes: Any) -> None:
    load_manifest(run).model_copy(update=changes).save(run)


def import_pair(family: str = "flux") -> Source:
    """Return a pair from elsewhere, whose picture nobody knows."""
    for number, phase in enumerate(Phase, 1):
        write_lora(Path(f"{phase}.safetensors"), fill=float(number))
    names = {f"{phase}_lora": f"{phase}.safetensors" for phase in Phase}
    request = ImportRequest(**names, model="acme/tiny", schedule="guide", alpha=2)
    run_import(plan_import(request))
    run = RunFolder(Path("runs/imported"))
    settings = load_manifest(run).settings.model_copy(update={"family": family})
    record(run, settings=settings)
    return open_source(run.path)


def export(
    run: RunFolder | Path, out: Path = OUT, *, force: bool = False, **asked: Any
) -> Exported:
    source = open_source(run if isinstance(run, Path) else run.path)
    return export_comfyui(plan_comfyui(source, **asked), out, force=force)


def content(folder: Path = OUT) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_further_loras_lie_beside_the_pair_and_stand_before_both_phases() -> None:
    run = make_run()
    pair = [open_source(run.path).lora_name(phase) for phase in Phase]
    ours = write_lora(Path(pair[0]), {"lora_alpha": "6"}, fill=3)  # of rank 2; called as the pair's
    kohya = Path("kohya.safetensors")
    stem = "lora_unet_double_blocks_0_img_attn_proj"
    halves = {f"{stem}.{half}.weight": np.ones((2, 2), "f4") for half in ("lora_down", "lora_up")}
    save_file(halves, kohya, {"ss_network_alpha": "1"})

    export(run, extra_loras=(f"{ours}:0.5", "kohya.safetensors"))

    name = f"{Path(pair[0]).stem}-2.safetensors"
    loaders = {one["lora_name"]: one for one in nodes("LoraLoaderModelOnly")}
    assert list(loaders) == [name, kohya.name, *pair]
    assert [loaders[one]["strength_model"] for one in loaders] == [0.5, 0.5, 1, 1]
    assert len({tuple(loaders[one]["model"]) for one in pair}) == 1
    assert (OUT / kohya.name).read_bytes() == kohya.read_bytes()
    written = read_lora(OUT / name).tensors  # its alpha multiplied in, and the rank as alpha
    assert written[f"{LAYER}.lora_B.weight"].to_float().max() == 9
    assert written[f"{LAYER}.alpha"].to_float() == 2
    assert sum(one in (OUT / "README.md").read_text() for one in (name, kohya.name)) == 2


def nodes(kind: str, file: str = "workflow-api.json") -> list[dict[str, Any]]:
    api = json.loads((OUT / file).read_text(encoding="utf-8"))
    return [node["inputs"] for node in api.values() if node["class_type"] == kind]


def test_the_folder_holds_both_loras_and_the_workflow_twice() -> None:
    run = make_run(resolution=512)

    done = export(run, seed=5)

    pair = open_source(run.path).name
    assert pair.startswith("x-")  # the picture's name, and the pair's id
    loras = {f"{pair}-slow.safetensors", f"{pair}-fast.safetensors"}
    names = {"README.md", "workflow.json", "workflow-api.json"} | loras
    assert {path.as_posix() for path in done.files} == names == set(content())
    assert done.folder == OUT
    assert {node["lora_name"] for node in nodes("LoraLoaderModelOnly")} == loras
    assert nodes("CLIPTextEncode")[0]["text"] == CAPTION
    assert nodes("EmptySD3LatentImage") == [{"width": 512, "height": 512, "batch_size": 1}]
    assert nodes("RandomNoise") == [{"noise_seed": 5}]
    page = json.loads((OUT / "workflow.json").read_text())
    typed = [value for node in page["nodes"] for value in node["widgets_values"]]
    assert {CAPTION, 5} <= set(typed)


def test_the_loras_keep_their_weights_gain_alpha_and_a_whole_header() -> None:
    run = make_run()
    before = run.lora(Phase.SLOW).read_bytes()

    export(run)

    for phase in Phase:
        (path,) = OUT.glob(f"*-{phase}.safetensors")
        exported, own = read_lora(path).tensors, read_lora(run.lora(phase)).tensors
        assert own.items() <= exported.items()
        assert set(exported) - set(own) == {f"{LAYER}.alpha"}
        header = read_header(path)
        assert header.metadata["modelspec.architecture"] == "flux-1-dev/lora"
        assert header.metadata["ss_network_dim"] == "2"
        assert header.metadata["glance.pair_id"] == load_manifest(run).pair_id
        assert header.metadata["modelspec.hash_sha256"] == f"0x{hash_data(header)}"
    assert run.lora(Phase.SLOW).read_bytes() == before


def test_the_readme_says_what_goes_where() -> None:
    run = make_run()

    export(run)

    readme = (OUT / "README.md").read_text()
    assert readme.startswith(f"# {open_source(run.path).name}: FLUX.1 in 10 steps, in ComfyUI\n")
    for name in content():
        assert name in readme or name == "README.md"
    address = "https://huggingface.co/Comfy-Org/flux1-dev/resolve/main/flux1-dev.safetensors"
    assert f"| `models/diffusion_models/` | [flux1-dev.safetensors]({address}) |" in readme


def test_a_pair_without_a_picture_needs_a_prompt() -> None:
    source = import_pair()

    with pytest.raises(RunError, match="imported without its image") as caught:
        plan_comfyui(source)
    done = export_comfyui(plan_comfyui(source, prompt="a hill"), OUT)

    assert caught.value.problems[0].hint == 'say what to generate: --prompt "..."'
    assert len(done.files) == 5
    assert source.name.startswith("flux-")
    assert nodes("CLIPTextEncode")[0]["text"] == "a hill"


def test_what_is_edited_is_written_and_opened_and_gives_its_shape() -> None:
    run = make_run(**EDITS, resolution=1024)

    export(run)  # the picture is twice as wide as high

    (node,), (size,) = nodes("LoadImage"), nodes("EmptySD3LatentImage")
    assert node["image"] == f"{open_source(run.path).name}-reference.png"
    assert content()[node["image"]] == (run.references / "x.png").read_bytes()
    assert f"`{node['image']}` goes to `input/`" in (OUT / "README.md").read_text()
    assert size["width"] / size["height"] == pytest.approx(2, rel=0.05)
    assert size["width"] * size["height"] == pytest.approx(1024 * 1024, rel=0.05)


def test_a_pair_that_edits_without_a_picture_says_that_one_is_needed() -> None:
    planned = plan_comfyui(import_pair(EDIT), prompt="a hill")

    done = export_comfyui(planned, OUT)

    (node,) = nodes("LoadImage")
    assert node["image"] not in content()
    assert any(node["image"] in note for note in done.notes)
    assert node["image"] in (OUT / "README.md").read_text()


def test_an_unknown_model_is_told_unless_the_user_names_its_file() -> None:
    run = make_run(model="acme/tiny")

    (note,) = export(run).notes
    assert "the base model as tiny.safetensors" in note
    assert "--model-file" in note
    assert nodes("UNETLoader")[0]["unet_name"] == "tiny.safetensors"
    assert note in (OUT / "README.md").read_text()

    named = export(run, force=True, model_file="my-flux.safetensors")
    assert nodes("UNETLoader")[0]["unet_name"] == "my-flux.safetensors"
    assert "my-flux.safetensors (yours)" in (OUT / "README.md").read_text()
    assert named.notes == ()


def test_a_seed_that_a_browser_rounds_is_told() -> None:
    source = open_source(make_run().path)

    (note,) = plan_comfyui(source, seed=2**53 + 1).notes

    assert "rounds seeds" in note
    assert plan_comfyui(source, seed=2**53 - 1).notes == ()


def test_a_schedule_that_begins_later_is_told() -> None:
    run = make_run()
    own = Schedule("own", (980.0, 900.0), (500.0,))
    record(run, schedule=record_schedule(own))

    (note,) = plan_comfyui(open_source(run.path)).notes

    assert note.startswith("the schedule begins at sigma 0.98: ComfyUI scales the noise")


@pytest.mark.parametrize(
    ("settings", "guidance", "said", "count"),
    [
        ({}, 3.5, "", 0),
        ({"family": "qwen_image", "model": "Qwen/Qwen-Image"}, 4.0, "of the unguided one", 1),
        ({"family": "qwen_image", "model": "Qwen/Qwen-Image"}, 1.0, "of the unguided one", 0),
        # TextEncodeQwenImageEditPlus scales the reference to 1024, whatever was trained
        ({**EDITS, "resolution": 1024}, 1.0, "1024", 0),
        ({**EDITS, "resolution": 512}, 1.0, "1024", 1),
    ],
)
def test_what_comfyui_does_otherwise_is_told(
    settings: dict[str, Any], guidance: float, said: str, count: int
) -> None:
    planned = plan_comfyui(open_source(make_run(**settings).path), slow_guidance=guidance)

    assert len([note for note in planned.notes if said in note]) == count


def test_a_repository_holds_the_workflow_and_not_the_picture_that_is_edited() -> None:
    run = make_run(**EDITS)

    plan = plan_hub(HubRequest(source=open_source(run.path), repo="x"))

    readme = plan.contents["comfyui/README.md"]
    assert "comfyui/workflow.json" in plan.contents
    assert not any(name.endswith(".png") for name in plan.contents)
    assert b"put the image that is edited into ComfyUI's input/" in readme
    assert CAPTION not in str(plan.contents)


def test_a_repository_goes_without_a_workflow_where_there_can_be_none() -> None:
    run = make_run(**EDITS)
    (run.references / "x.png").unlink()

    plan = plan_hub(HubRequest(source=open_source(run.path), repo="x"))

    assert not any(name.startswith("comfyui/") for name in plan.contents)
    assert any("no workflow for ComfyUI" in note for note in plan.notes)
