"""The same LoRA in anybody's spelling has the same effect, and no layer of a file is skipped.

The tiny FLUX is 32 wide. diffusers' converters have FLUX's 3072 and Lumina's 2304 written into
them where they split what is fused in single blocks: those are tested on layers without memory.
"""

import inspect
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from fakes.pairs import make_origin
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from tiny_models.adapters import make_loras

from glance.core.errors import LoraError
from glance.core.phase import Phase
from glance.models.families import find_family
from glance.models.lora.examine import examine_lora
from glance.runs.lora import finalise_lora
from glance.sampling.pipeline.adapters import load_adapter, prepare_adapter

Q, K, V = (f"transformer_blocks.0.attn.to_{part}" for part in "qkv")
FF = "transformer_blocks.0.ff.net.0.proj"
OUT = "single_transformer_blocks.0.proj_out"
RANK, ALPHA = 4, 8.0

type Tensors = dict[str, torch.Tensor]
type Pairs = dict[str, tuple[torch.Tensor, torch.Tensor]]
type Style = Callable[[Pairs], tuple[Tensors, dict[str, Any]]]


@pytest.fixture
def flux(tiny_flux: Path) -> Any:
    return diffusers.FluxPipeline.from_pretrained(tiny_flux)


def load(family: str, model: Path) -> Any:
    return getattr(diffusers, find_family(family).pipeline).from_pretrained(model)


def without_memory(pipeline_class: Any, transformer_class: Any, **config: Any) -> Any:
    """A pipeline of nothing but a transformer of full width, on torch's meta device."""
    with torch.device("meta"):
        transformer = transformer_class(**config)
    parts = [name for name in inspect.signature(pipeline_class).parameters if name != "transformer"]
    return pipeline_class(**dict.fromkeys(parts), transformer=transformer)


def make_pairs(pipeline: Any, *layers: str, rank: int = RANK) -> Pairs:
    generator = torch.Generator().manual_seed(0)
    pairs: Pairs = {}
    for name in layers:
        layer = pipeline.transformer.get_submodule(name)
        down = torch.randn(rank, layer.in_features, generator=generator)
        pairs[name] = (down, torch.randn(layer.out_features, rank, generator=generator))
    return pairs


def product(pairs: Pairs, *, factor: float = 1.0) -> Tensors:
    return {name: factor * (up @ down) for name, (down, up) in pairs.items()}


def write(tensors: Tensors, metadata: Mapping[str, Any] | None = None) -> Path:
    path = Path("x.safetensors")
    header = {"lora_adapter_metadata": json.dumps(metadata)} if metadata else None
    save_file({key: tensor.clone() for key, tensor in tensors.items()}, path, header)
    return path


def spelled(pairs: Pairs, down: str, up: str, alpha: str | None = None) -> Tensors:
    tensors: Tensors = {}
    for name, (a, b) in pairs.items():
        tensors |= {down.format(name): a, up.format(name): b}
        if alpha:
            tensors[alpha.format(name)] = torch.tensor(ALPHA)
    return tensors


def peft(pairs: Pairs, prefix: str = "transformer.") -> Tensors:
    return spelled(pairs, prefix + "{}.lora_A.weight", prefix + "{}.lora_B.weight")


def comfy(pairs: Pairs) -> Tensors:
    stem = "diffusion_model.{}"
    return spelled(pairs, f"{stem}.lora_A.weight", f"{stem}.lora_B.weight", f"{stem}.alpha")


def kohya(pairs: Pairs, prefix: str = "lora_unet_") -> Tensors:
    flat = {name.replace(".", "_"): pair for name, pair in pairs.items()}
    stem = prefix + "{}"
    return spelled(flat, f"{stem}.lora_down.weight", f"{stem}.lora_up.weight", f"{stem}.alpha")


def effects(transformer: torch.nn.Module, name: str) -> Tensors:
    """What the adapter adds to each layer's weight, by PEFT's own layers."""
    return {
        layer: module.scaling[name] * (module.lora_B[name].weight @ module.lora_A[name].weight)
        for layer, module in transformer.named_modules()
        if isinstance(module, LoraLayer) and name in module.scaling
    }


def same(found: Tensors, expected: Tensors) -> bool:
    return found.keys() == expected.keys() and all(
        torch.allclose(found[layer], expected[layer], rtol=1e-5, atol=1e-5) for layer in expected
    )


def identical(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(found[key], expected[key]) for key in expected
    )


@pytest.mark.parametrize(
    ("style", "factor"),
    [
        (lambda pairs: (peft(pairs), {}), 1.0),
        (lambda pairs: (peft(pairs, ""), {}), 1.0),
        (lambda pairs: (peft(pairs, "base_model.model."), {}), 1.0),
        (lambda pairs: (peft(pairs), {"transformer.lora_alpha": 8, "transformer.r": 4}), 2.0),
        (lambda p: (peft(p), {"transformer.lora_alpha": 8, "transformer.use_rslora": True}), 4.0),
        (lambda pairs: (comfy(pairs), {}), 2.0),
        (lambda pairs: (kohya(pairs), {}), 2.0),
        (lambda pairs: (kohya(pairs, "lora_transformer_"), {}), 2.0),
        # as ModelTC/Qwen-Image-Lightning
        (lambda p: (spelled(p, "{}.lora_down.weight", "{}.lora_up.weight", "{}.alpha"), {}), 2.0),
    ],
    ids=[
        *("diffusers", "bare", "PEFT", "alpha", "rsLoRA", "ComfyUI", "kohya", "OneTrainer"),
        "Lightning",
    ],
)
def test_every_style_gives_alpha_by_rank(flux: Any, style: Style, factor: float) -> None:
    pairs = make_pairs(flux, Q, FF, OUT, "x_embedder")

    rank = load_adapter(flux, write(*style(pairs)), name="slow")

    assert rank == RANK
    assert same(effects(flux.transformer, "slow"), product(pairs, factor=factor))


def fused(pairs: Pairs, *names: str) -> tuple[torch.Tensor, torch.Tensor]:
    """One pair over several layers, whose A they share."""
    down = pairs[names[0]][0]
    for name in names[1:]:
        pairs[name] = (down, pairs[name][1])
    return down, torch.cat([pairs[name][1] for name in names])


@pytest.mark.parametrize(
    "style", [comfy, kohya, lambda pairs: kohya(pairs, "base_model.model.lora_unet_")],
    ids=["ComfyUI", "kohya", "both"],
)  # fmt: skip
def test_original_flux_is_split_into_q_k_and_v(flux: Any, style: Any) -> None:
    final = "norm_out.linear"
    pairs = make_pairs(flux, Q, K, V, FF, OUT, "context_embedder", final)
    original = {
        "double_blocks.0.img_attn.qkv": fused(pairs, Q, K, V),
        "double_blocks.0.img_mlp.0": pairs[FF],
        "single_blocks.0.linear2": pairs[OUT],
        "txt_in": pairs["context_embedder"],
        # The original has shift before scale.
        "final_layer.adaLN_modulation.1": (pairs[final][0], pairs[final][1].roll(32, 0)),
    }

    prepared = prepare_adapter(flux, write(style(original)))
    load_adapter(flux, prepared, name="slow")

    assert same(effects(flux.transformer, "slow"), product(pairs, factor=2.0))
    places = {tensor.data_ptr() for tensor in prepared.state.values()}
    assert len(places) == len(prepared.state), "each part has memory of its own"


@pytest.mark.parametrize("style", [comfy, kohya])
def test_single_blocks_of_real_flux_are_split(style: Any) -> None:
    flux = without_memory(
        diffusers.FluxPipeline, diffusers.FluxTransformer2DModel, num_layers=1, num_single_layers=1
    )
    block = "single_transformer_blocks.0"
    names = [f"{block}.{n}" for n in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")]
    pairs = make_pairs(flux, *names)

    file = write(style({"single_blocks.0.linear1": fused(pairs, *names)}))

    expected = peft({name: (down, 2 * up) for name, (down, up) in pairs.items()})
    assert identical(prepare_adapter(flux, file).state, expected)


def test_kohyas_sparse_qkv_becomes_pairs_of_a_third_of_the_rank(flux: Any) -> None:
    pairs = make_pairs(flux, Q, K, V)
    down = torch.cat([pair[0] for pair in pairs.values()])
    up = torch.block_diag(*(pair[1] for pair in pairs.values()))
    file = write(peft({"double_blocks.0.img_attn.qkv": (down, up)}) | peft(make_pairs(flux, FF)))

    rank = load_adapter(flux, file, name="slow")

    assert rank == RANK  # of the file's 12
    assert same(effects(flux.transformer, "slow"), product(pairs | make_pairs(flux, FF)))


def q_k_and_v(prefix: str) -> list[str]:
    return [f"{prefix}.to_{part}" for part in "qkv"]


ORIGINALS: dict[str, dict[str, list[str]]] = {
    "qwen_image": {
        name: [name] for name in (Q, "transformer_blocks.0.img_mod.1", "txt_in", "proj_out")
    },
    "z_image": {
        "layers.0.attention.qkv": q_k_and_v("layers.0.attention"),
        "layers.0.attention.out": ["layers.0.attention.to_out.0"],
        "layers.0.feed_forward.w1": ["layers.0.feed_forward.w1"],
    },
    "krea2": {"blocks.0.attn.gate": ["transformer_blocks.0.attn.to_gate"], "first": ["img_in"]},
}
"""By the original's name of a layer: diffusers' names of its parts."""


@pytest.mark.parametrize(
    ("family", "style"),
    [*((family, kohya) for family in ("qwen_image", "z_image")), *((f, comfy) for f in ORIGINALS)],
)
def test_originals_are_translated(tiny: Callable[[str], Path], family: str, style: Any) -> None:
    pipeline = load(family, tiny(family))
    names = ORIGINALS[family]
    pairs = make_pairs(pipeline, *(name for parts in names.values() for name in parts))
    original = {name: fused(pairs, *parts) for name, parts in names.items()}

    load_adapter(pipeline, write(style(original)), name="slow")

    assert same(effects(pipeline.transformer, "slow"), product(pairs, factor=2.0))


ORIGINAL_FLUX2 = {
    "double_blocks.0.img_attn.qkv": [Q, K, V],
    "double_blocks.0.txt_attn.qkv": [f"transformer_blocks.0.attn.add_{p}_proj" for p in "qkv"],
    "double_blocks.0.img_attn.proj": ["transformer_blocks.0.attn.to_out.0"],
    "double_blocks.0.txt_attn.proj": ["transformer_blocks.0.attn.to_add_out"],
    "double_blocks.0.img_mlp.0": ["transformer_blocks.0.ff.linear_in"],
    "double_blocks.0.img_mlp.2": ["transformer_blocks.0.ff.linear_out"],
    "double_blocks.0.txt_mlp.0": ["transformer_blocks.0.ff_context.linear_in"],
    "double_blocks.0.txt_mlp.2": ["transformer_blocks.0.ff_context.linear_out"],
    "single_blocks.0.linear1": ["single_transformer_blocks.0.attn.to_qkv_mlp_proj"],
    "single_blocks.0.linear2": ["single_transformer_blocks.0.attn.to_out"],
    "double_stream_modulation_img.lin": ["double_stream_modulation_img.linear"],
    "double_stream_modulation_txt.lin": ["double_stream_modulation_txt.linear"],
    "single_stream_modulation.lin": ["single_stream_modulation.linear"],
    "img_in": ["x_embedder"],
    "txt_in": ["context_embedder"],
    "time_in.in_layer": ["time_guidance_embed.timestep_embedder.linear_1"],
    "time_in.out_layer": ["time_guidance_embed.timestep_embedder.linear_2"],
    "guidance_in.in_layer": ["time_guidance_embed.guidance_embedder.linear_1"],
    "guidance_in.out_layer": ["time_guidance_embed.guidance_embedder.linear_2"],
    "final_layer.linear": ["proj_out"],
}
"""FLUX.2's own names of its layers, as ai-toolkit, fal and kohya's musubi-tuner write them."""


@pytest.mark.parametrize("family", ["flux2", "flux2_klein"])
@pytest.mark.parametrize(
    ("style", "factor"),
    [
        (comfy, 2.0),
        (lambda pairs: peft(pairs, "diffusion_model."), 1.0),
        (lambda pairs: peft(pairs, "base_model.model."), 1.0),
        (kohya, 2.0),
    ],
    ids=["ComfyUI", "ai-toolkit", "fal", "kohya"],
)
def test_every_layer_of_original_flux2_finds_its_place(
    tiny: Callable[[str], Path], family: str, style: Any, factor: float
) -> None:
    pipeline = load(family, tiny(family))
    layers = dict(pipeline.transformer.named_modules())
    known = {name: own for name, own in ORIGINAL_FLUX2.items() if own[0] in layers}
    final = "norm_out.linear"
    pairs = make_pairs(pipeline, final, *(name for names in known.values() for name in names))

    original = {name: fused(pairs, *names) for name, names in known.items()}
    # The original has shift before scale.
    original["final_layer.adaLN_modulation.1"] = (pairs[final][0], pairs[final][1].roll(32, 0))
    load_adapter(pipeline, write(style(original)), name="slow")

    assert len(known) == {"flux2": 20, "flux2_klein": 18}[family]
    assert same(effects(pipeline.transformer, "slow"), product(pairs, factor=factor))


@pytest.mark.parametrize(
    ("config", "factor"),
    [
        ({"lora_alpha": 16}, 4.0),
        ({"lora_alpha": 16, "use_rslora": True}, 8.0),
        ({"lora_alpha": 16, "alpha_pattern": {"to_q": 2}}, 0.5),
    ],
    ids=["alpha", "rsLoRA", "pattern"],
)
def test_pefts_config_beside_the_file_is_what_peft_applies(
    flux: Any, config: dict[str, Any], factor: float
) -> None:
    given = {"r": RANK, "target_modules": [Q, K], **config}
    peft_model = get_peft_model(flux.transformer, LoraConfig(**given))
    expected = {}
    for name in (Q, K):
        layer = peft_model.get_submodule(f"base_model.model.{name}")
        with torch.no_grad():
            layer.lora_B["default"].weight.normal_()
        expected[name] = layer.get_delta_weight("default").clone()
    peft_model.save_pretrained("peft")
    flux.transformer = peft_model.unload()

    load_adapter(flux, Path("peft/adapter_model.safetensors"), name="slow")

    assert same(effects(flux.transformer, "slow"), expected)
    assert examine_lora(Path("peft/adapter_model.safetensors")).strength.factors[Q] == factor


def test_original_lumina_of_full_width_is_split() -> None:
    pipeline = without_memory(
        diffusers.Lumina2Pipeline, diffusers.Lumina2Transformer2DModel, num_layers=1
    )
    new = [*(f"attn.to_{part}" for part in "qkv"), "attn.to_out.0", "norm1.linear"]
    new += [f"feed_forward.linear_{number}" for number in (1, 2, 3)]
    old = ["attention.out", "adaLN_modulation.1", *(f"feed_forward.w{n}" for n in (1, 2, 3))]
    pairs = make_pairs(pipeline, *(f"layers.0.{name}" for name in new))
    names = list(pairs)
    original = {"layers.0.attention.qkv": fused(pairs, *names[:3])}
    original |= {f"layers.0.{name}": pairs[at] for name, at in zip(old, names[3:], strict=True)}

    state = prepare_adapter(pipeline, write(peft(original, "diffusion_model."))).state

    assert identical(state, peft(pairs))


def test_layers_of_different_ranks_all_have_scale_one(flux: Any) -> None:
    pairs = make_pairs(flux, Q, K)
    # Every name but the first is the end of another.
    pairs |= make_pairs(flux, OUT, rank=8) | make_pairs(flux, "proj_out", rank=2)

    assert load_adapter(flux, write(peft(pairs)), name="slow") == 8
    assert same(effects(flux.transformer, "slow"), product(pairs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_glances_own_files_load_as_diffusers_loads_them(
    tiny_flux: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    ours, theirs = (
        diffusers.FluxPipeline.from_pretrained(tiny_flux, torch_dtype=dtype) for _ in range(2)
    )
    for name, path in make_loras(tiny_flux, tmp_path / "loras").items():
        finalise_lora(path, rank=4, alpha=8, origin=make_origin(Phase(name)))
        load_adapter(ours, path, name=name)
        theirs.load_lora_weights(path.parent, weight_name=path.name, adapter_name=name)

    found = ours.transformer.state_dict()
    assert identical(found, theirs.transformer.state_dict())
    assert {tensor.dtype for tensor in found.values()} == {dtype}


def test_factor_one_leaves_every_bit_and_others_are_multiplied_in_float32(flux: Any) -> None:
    pairs = {name: (a.half(), b.half()) for name, (a, b) in make_pairs(flux, Q).items()}
    state = prepare_adapter(flux, write(peft(pairs))).state
    assert identical(state, peft(pairs))
    assert {tensor.dtype for tensor in state.values()} == {torch.float16}

    ((down, up),) = make_pairs(flux, Q, rank=3).values()
    file = write(kohya({Q: (down.bfloat16(), up.bfloat16())}))
    expected = (up.bfloat16().float() * (8 / 3)).bfloat16()
    assert torch.equal(
        prepare_adapter(flux, file).state[f"transformer.{Q}.lora_B.weight"], expected
    )


def test_converted_layers_keep_the_files_type(flux: Any) -> None:
    qkv = make_pairs(flux, Q, K, V, rank=257)  # which bf16 cannot hold
    halves = tuple(half.bfloat16() for half in fused(qkv, Q, K, V))
    file = write(peft({"double_blocks.0.img_attn.qkv": halves}))

    state = prepare_adapter(flux, file).state

    assert torch.equal(state[f"transformer.{V}.lora_B.weight"], qkv[V][1].bfloat16())
    assert torch.equal(state[f"transformer.{V}.lora_A.weight"], qkv[V][0].bfloat16())


def refusal(pipeline: Any, tensors: Tensors) -> str:
    with pytest.raises(LoraError) as caught:
        prepare_adapter(pipeline, write(tensors))
    return str(caught.value)


def test_layers_that_the_model_lacks_are_named_and_counted(flux: Any) -> None:
    pair = make_pairs(flux, Q)[Q]
    alien = {f"transformer_blocks.{number}.attn.to_q": pair for number in range(70, 95)}

    message = refusal(flux, peft({Q: pair, **alien}))

    assert message.startswith(
        "x.safetensors: 25 of its 26 layers are not the model's: the model has no layer "
        "transformer_blocks.70.attn.to_q, transformer_blocks.71.attn.to_q"
    )
    assert message.endswith("transformer_blocks.89.attn.to_q and 5 more")


def test_layer_that_the_converter_drops_is_named(tiny: Callable[[str], Path]) -> None:
    pipeline = load("flux2", tiny("flux2"))
    pairs = make_pairs(pipeline, "single_stream_modulation.linear", "x_embedder")
    original = dict(zip(("single_stream_modulation.up", "img_in"), pairs.values(), strict=True))

    converted = type(pipeline).lora_state_dict(kohya(original))
    message = refusal(pipeline, kohya(original))

    assert list(converted) == [f"transformer.x_embedder.lora_{half}.weight" for half in "AB"]
    assert message.endswith(": the model has no layer single_stream_modulation_up")


def test_a_layer_of_which_the_converter_loses_a_part_is_named_alone(
    flux: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert = diffusers.FluxPipeline.lora_state_dict

    def forget(*given: Any, **options: Any) -> Tensors:
        converted = convert(*given, **options)
        return {key: tensor for key, tensor in converted.items() if "to_v" not in key}

    monkeypatch.setattr(diffusers.FluxPipeline, "lora_state_dict", forget)
    pairs = make_pairs(flux, Q, K, V, OUT)
    original = {"double_blocks.0.img_attn.qkv": fused(pairs, Q, K, V)}

    message = refusal(flux, comfy({**original, "single_blocks.0.linear2": pairs[OUT]}))

    assert re.search(r": 1 of its 2 layers .* no layer double_blocks.0.img_attn.qkv$", message)


def test_layers_that_cannot_be_are_named(flux: Any, tiny: Callable[[str], Path]) -> None:
    linear1 = {"single_blocks.0.linear1": (torch.ones(4, 32), torch.ones(224, 4))}
    conv = {"pos_embed.proj": (torch.ones(4, 16), torch.ones(32, 4))}

    assert refusal(flux, kohya(linear1)).endswith("no layer single_blocks_0_linear1"), "too narrow"
    sd3 = load("sd3", tiny("sd3"))
    assert refusal(sd3, peft(conv)).endswith("no layer pos_embed.proj"), "it is not linear"


def test_wrong_widths_are_named_with_both(flux: Any) -> None:
    pairs = make_pairs(flux, Q, "x_embedder")
    wide = {"x_embedder": (torch.ones(4, 128), pairs["x_embedder"][1])}  # FLUX's control LoRAs

    message = refusal(flux, peft(pairs | wide | {FF: (torch.ones(4, 32), torch.ones(64, 4))}))

    assert message.split("; ") == [
        f"x.safetensors: {FF} is 32 to 128 wide in the model, the LoRA is for 32 to 64",
        "x.safetensors: x_embedder is 64 to 32 wide in the model, the LoRA is for 128 to 32",
    ]


def test_refusal_leaves_the_model_as_it_was(flux: Any) -> None:
    pairs, before = make_pairs(flux, Q), list(flux.transformer.state_dict())

    twice = refusal(flux, peft(pairs) | kohya(pairs))
    text = refusal(flux, peft(pairs) | peft(pairs, "text_encoder."))
    refusal(flux, peft(pairs | {"alien": pairs[Q]}))

    assert twice == f"x.safetensors: more than one of its pairs changes {Q}"
    assert "2 of its keys are a text encoder's" in text
    assert list(flux.transformer.state_dict()) == before
