"""A style's LoRA beside the pair's, in both phases: held to a loop by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from plain_loops import generate
from safetensors.torch import load_file, save_file

from glance.core.errors import LoraError
from glance.sampling.generate import load_planned, run_generation
from glance.sampling.pipeline.adapters import load_swapped
from glance.sampling.pipeline.glance_pipeline import GlancePipeline
from glance.sampling.pipeline.load import compile_transformer
from glance.sampling.plan import GenerationPlan, plan_generation
from glance.sampling.request import ExtraLora, InferRequest

SIZE = {"width": 64, "height": 64}
STRENGTH = 0.7


@pytest.fixture(scope="module")
def styles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One LoRA of other layers and another rank than the pair's, twice.

    As diffusers loads it, and as kohya's trainer writes it: alpha is half the rank, and there is a
    part for a text encoder.
    """
    folder, make = tmp_path_factory.mktemp("styles"), torch.Generator().manual_seed(9)
    plain, kohya = {}, {"lora_te1_text_model.lora_up.weight": torch.ones(2, 2)}
    for layer in ("transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.to_out.0"):
        down, up = (torch.randn(*shape, generator=make) for shape in ((6, 32), (32, 6)))
        plain |= {f"transformer.{layer}.lora_A.weight": down}
        plain |= {f"transformer.{layer}.lora_B.weight": up * 0.5}
        name = f"lora_unet_{layer.replace('.', '_')}"
        kohya |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        kohya |= {f"{name}.alpha": torch.tensor(3.0)}
    paths = folder / "plain.safetensors", folder / "style.safetensors"
    save_file(plain, paths[0])
    save_file(kohya, paths[1])
    return paths


@pytest.fixture(scope="module")
def by_hand(tiny_flux: Path, loras: dict[str, Path], styles: tuple[Path, Path]) -> Image.Image:
    """The picture of `wanted`, of a loop that shares no code with glance."""
    from diffusers import FluxPipeline

    pipeline = FluxPipeline.from_pretrained(tiny_flux)
    for name, path in {**loras, "style": styles[0]}.items():
        pipeline.load_lora_weights(path.parent, weight_name=path.name, adapter_name=name)
    options = {"seed": 3, "guidance": (3.5, 1.0), "beside": {"style": STRENGTH}}
    picture: Image.Image = generate("flux", pipeline, "a hill", **options)
    return picture


def wanted(run: Path, style: Path | str, **changes: Any) -> GenerationPlan:
    usual = {"run": run, "device": "cpu", "prompts": ("a hill",), "seeds": (3,), **changes}
    return plan_generation(InferRequest(extra_loras=(f"{style}:{STRENGTH}",), **usual))


def test_a_style_beside_the_pair_equals_a_loop_by_hand_and_an_image_repeats_it(
    run_folder: Path, styles: tuple[Path, Path], by_hand: Image.Image
) -> None:
    first = run_generation(wanted(run_folder, styles[1]), lambda _: None).images[0]
    known = InferRequest(from_image=first, output=Path("again.png"), device="cpu")
    run_generation(plan_generation(known), lambda _: None)

    assert Image.open(first).tobytes() == by_hand.tobytes()
    assert Image.open("again.png").tobytes() == by_hand.tobytes()


def test_it_may_stay_where_weights_are_swapped_and_a_compiled_model_is_built_once(
    run_folder: Path, styles: tuple[Path, Path], by_hand: Image.Image
) -> None:
    planned = wanted(run_folder, styles[1])
    bare = load_planned(plan_generation(InferRequest(run=run_folder, loras=(), prompts=("x",))))
    extras = [one.lora for one in planned.extra_loras.values()]
    switch = load_swapped(bare.pipeline, planned.loras, extras)
    swapped = GlancePipeline(bare.pipeline, schedule=planned.schedule, switch=switch)
    (plain,) = swapped("a hill", seed=3, **SIZE)

    compile_transformer(swapped.pipeline, backend="eager")
    torch._dynamo.reset()
    (first,) = swapped("a hill", seed=3, **SIZE)
    with torch._dynamo.config.patch(error_on_recompile=True):
        swapped("a hill", slow_scale=0.5, **SIZE)
        (alone,) = swapped("a hill", seed=3, loras=(), **SIZE)

    assert plain.tobytes() == by_hand.tobytes()
    assert furthest(first, plain) <= 1
    assert furthest(alone, plain) > 1


def test_without_the_pair_it_works_alone_and_two_of_one_name_add_up(
    tiny_flux: Path, run_folder: Path, styles: tuple[Path, Path]
) -> None:
    from diffusers import FluxPipeline

    plain, style = styles
    without = load_planned(wanted(run_folder, style, loras=()))
    (alone,) = without("a hill", **SIZE, loras=())
    pipeline = FluxPipeline.from_pretrained(tiny_flux)
    pipeline.set_progress_bar_config(disable=True)
    other = Path("extra-1/style.safetensors")
    other.parent.mkdir()
    save_file(load_file(plain), other, {"glance.folded_scale": "1.0"})

    (base,) = GlancePipeline(pipeline)("a hill", **SIZE)
    both = GlancePipeline(pipeline, extra_loras=[f"{style}:0.2", ExtraLora(other, 0.5)])
    (sum_,) = both("a hill", **SIZE)
    (again,) = GlancePipeline(pipeline, extra_loras=[f"{style}:0.7"])("a hill", **SIZE)

    assert furthest(base, alone) > 1
    assert alone.tobytes() == again.tobytes()
    assert furthest(sum_, alone) <= 1


def test_layers_that_the_model_lacks_are_named(run_folder: Path, styles: tuple[Path, Path]) -> None:
    tensors = {key.replace("blocks.0", "blocks.99"): it for key, it in load_file(styles[0]).items()}
    save_file(tensors, "stranger.safetensors")

    with pytest.raises(LoraError, match=r"stranger.safetensors: 2 of its 2 layers are not the mod"):
        load_planned(wanted(run_folder, "stranger.safetensors"))


def furthest(one: Image.Image, other: Image.Image) -> int:
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other)).max())
