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
from plain_loops import furthest
from safetensors.torch import save_file
from tiny_models.adapters import make_loras

from glance.core.device import Precision
from glance.core.phase import Phase
from glance.interop.diffusers import export_diffusers
from glance.interop.export import open_source
from glance.models.families import FAMILIES, find_family
from glance.sampling.generate import run_generation
from glance.sampling.plan import plan_generation
from glance.sampling.request import InferRequest

PROMPT = "a lighthouse by the sea, " * 8  # longer than some families read
SCRIPT = Path("out/generate.py")
ARGUMENTS = [str(SCRIPT), "--prompt", PROMPT, "--seed", "3", "--output", "script.png"]
Generate = Callable[..., Image.Image]
Arguments = Callable[..., list[str]]


@pytest.fixture
def exported(tiny: Callable[[str], Path], reference: Path) -> Arguments:
    """Export a finished run of a family's tiny model; return the script's command line."""

    def export(family: str, device: str = "cpu") -> list[str]:
        run = write_run(Path("runs/made"), family=family, model=str(tiny(family)))
        for phase, path in make_loras(tiny(family), Path("loras")).items():
            path.replace(run.lora(Phase(phase)))
        export_diffusers(open_source(run.path), SCRIPT.parent)
        shown = ["--source-image", str(reference)] if find_family(family).edits else []
        return [*ARGUMENTS, "--model", str(tiny(family)), "--device", device, *shown]

    return export


def generated_by_glance(**asked: object) -> Image.Image:
    usual = {"run": Path("runs/made"), "prompts": (PROMPT,), "seeds": (3,), "device": "cpu"}
    request = InferRequest(**{**usual, "output": Path("glance.png"), **asked})
    run_generation(plan_generation(request), lambda _: None)
    return Image.open("glance.png")


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


@pytest.mark.parametrize("family", FAMILIES)
def test_the_script_gives_glances_picture(
    family: str, exported: Arguments, generate: Generate, reference: Path
) -> None:
    picture = generate(exported(family))

    shown = reference if find_family(family).edits else None
    assert furthest(picture, generated_by_glance(reference=shown)) == 0
    assert len(picture.getcolors(maxcolors=picture.width * picture.height)) > 100


def test_a_style_beside_the_pair_gives_glances_picture_too(
    exported: Arguments, generate: Generate
) -> None:
    """As kohya's trainer writes it: fused layers by the model's first names, alpha, two ranks."""
    style = Path("slow.safetensors")  # called as one of the pair
    tensors, make = {}, torch.Generator().manual_seed(9)
    for layer, width, rank in (("img_attn_qkv", 96, 3), ("img_attn_proj", 32, 5)):
        name = f"lora_unet_double_blocks_0_{layer}"
        tensors[f"{name}.lora_down.weight"] = torch.randn(rank, 32, generator=make)
        tensors[f"{name}.lora_up.weight"] = 0.5 * torch.randn(width, rank, generator=make)
        tensors[f"{name}.alpha"] = torch.tensor(2.0)
    save_file(tensors, style)
    arguments, extras = exported("flux"), (f"{style}:0.7",)
    source = open_source(Path("runs/made"))
    export_diffusers(source, SCRIPT.parent, extra_loras=extras, force=True)

    picture = generate(arguments)

    assert (SCRIPT.parent / "slow-2.safetensors").is_file()
    assert furthest(picture, generated_by_glance(extra_loras=extras)) == 0
    assert furthest(picture, generated_by_glance()) > 0


def test_away_from_the_cpu_the_script_is_in_bf16(exported: Arguments, generate: Generate) -> None:
    picture = generate(exported("flux", device="cpu:0"))  # to the script no plain CPU

    assert furthest(picture, generated_by_glance(dtype=Precision.BF16)) == 0
    assert furthest(picture, generated_by_glance()) > 0


def test_the_script_runs_where_glance_cannot_be_imported(exported: Arguments) -> None:
    without = "import runpy, sys; sys.modules['glance'] = None; sys.argv = sys.argv[1:]; "
    start = f"{without}runpy.run_path(sys.argv[0], run_name='__main__')"

    done = subprocess.run(
        [sys.executable, "-I", "-c", start, *exported("flux")],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert furthest(Image.open("script.png"), generated_by_glance()) == 0
