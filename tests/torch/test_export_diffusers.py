"""The exported script against `glance infer`: the same picture to the bit, in every family."""

import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fakes.pairs import write_run
from PIL import Image
from safetensors.torch import save_file
from tiny_models import build_tiny, lend_parts
from tiny_models.adapters import make_loras

from glance.core.device import Precision
from glance.core.phase import Phase
from glance.interop.diffusers import export_diffusers
from glance.interop.export import open_source
from glance.models.families import FAMILIES, find_family
from glance.runs.folder import RunFolder
from glance.sampling.generate import run_generation
from glance.sampling.plan import plan_generation
from glance.sampling.request import InferRequest

PROMPT = "a lighthouse by the sea, " * 8  # longer than some families read
SCRIPT = Path("out/generate.py")
Generate = Callable[[list[str]], Image.Image]


def make_run(family: str) -> RunFolder:
    """A finished run with a tiny model of the family and two LoRAs for it; and a picture to edit.

    It is exported to out.
    """
    run = write_run(Path("runs/made"), family=family, model="model")
    lend_parts(family, build_tiny(family, run.model, seed=1))
    loras = make_loras(run.model, Path("loras"))
    for phase in Phase:
        loras[phase].replace(run.lora(phase))
    Image.radial_gradient("L").resize((128, 64)).convert("RGB").save("before.png")
    export_diffusers(open_source(run.path), SCRIPT.parent)
    return run


def generated_by_glance(
    run: RunFolder, family: str, dtype: Precision | None = None, extra_loras: tuple[str, ...] = ()
) -> Image.Image:
    reference = Path("before.png") if find_family(family).edits else None
    request = InferRequest(
        run=run.path,
        prompts=(PROMPT,),
        seeds=(3,),
        reference=reference,
        device="cpu",
        dtype=dtype,
        extra_loras=extra_loras,
        output=Path("glance.png"),
    )
    run_generation(plan_generation(request), lambda _: None)
    return Image.open("glance.png")


def arguments(run: RunFolder, family: str, *, device: str = "cpu") -> list[str]:
    reference = ["--source-image", "before.png"] if find_family(family).edits else []
    picture = ["--prompt", PROMPT, "--seed", "3", "--output", "script.png"]
    return [str(SCRIPT), *picture, "--model", str(run.model), "--device", device, *reference]


@pytest.fixture
def generate(monkeypatch: pytest.MonkeyPatch) -> Generate:
    """Run the script in this process, which has imported diffusers already."""
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as module

    def run(argv: list[str]) -> Image.Image:
        monkeypatch.setattr(sys, "argv", argv)
        monkeypatch.setattr(module, "VAE_IMAGE_SIZE", module.VAE_IMAGE_SIZE)  # put back later
        runpy.run_path(argv[0], run_name="__main__")
        return Image.open("script.png")

    return run


def same(one: Image.Image, other: Image.Image) -> bool:
    """To the bit."""
    return one.size == other.size and one.tobytes() == other.tobytes()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_script_gives_glances_picture(family: str, generate: Generate) -> None:
    run = make_run(family)

    picture = generate(arguments(run, family))

    assert same(picture, generated_by_glance(run, family))
    assert len(picture.getcolors(maxcolors=picture.width * picture.height)) > 100


def test_a_style_beside_the_pair_gives_glances_picture_too(generate: Generate) -> None:
    """As kohya's trainer writes it: fused layers by the model's first names, alpha, two ranks."""
    run, style = make_run("flux"), Path("slow.safetensors")  # called as one of the pair
    tensors, make = {}, torch.Generator().manual_seed(9)
    for layer, width, rank in (("img_attn_qkv", 96, 3), ("img_attn_proj", 32, 5)):
        name = f"lora_unet_double_blocks_0_{layer}"
        tensors[f"{name}.lora_down.weight"] = torch.randn(rank, 32, generator=make)
        tensors[f"{name}.lora_up.weight"] = 0.5 * torch.randn(width, rank, generator=make)
        tensors[f"{name}.alpha"] = torch.tensor(2.0)
    save_file(tensors, style)
    extra_loras = (f"{style}:0.7",)
    export_diffusers(open_source(run.path), SCRIPT.parent, extra_loras=extra_loras, force=True)

    picture = generate(arguments(run, "flux"))

    assert (SCRIPT.parent / "slow-2.safetensors").is_file()
    assert same(picture, generated_by_glance(run, "flux", extra_loras=extra_loras))
    assert not same(picture, generated_by_glance(run, "flux"))


def test_away_from_the_cpu_the_script_generates_in_bf16(generate: Generate) -> None:
    run = make_run("flux")

    picture = generate(arguments(run, "flux", device="cpu:0"))  # to the script no plain CPU

    assert same(picture, generated_by_glance(run, "flux", Precision.BF16))
    assert not same(picture, generate(arguments(run, "flux")))


def test_the_script_runs_where_glance_cannot_be_imported() -> None:
    run = make_run("flux")
    without = "import runpy, sys; sys.modules['glance'] = None; sys.argv = sys.argv[1:]; "
    start = f"{without}runpy.run_path(sys.argv[0], run_name='__main__')"

    done = subprocess.run(
        [sys.executable, "-I", "-c", start, *arguments(run, "flux")],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert same(Image.open("script.png"), generated_by_glance(run, "flux"))
