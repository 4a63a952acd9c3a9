"""Anybody's LoRA file: every spelling of a pair is understood, every reason to refuse is named."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from glance.core.errors import LoraError
from glance.core.phase import Phase
from glance.models.lora.examine import examine_lora
from glance.models.lora.file import hash_file
from glance.models.lora.keys import sort_keys

LAYER = "transformer_blocks.0.attn.to_q"

type Tensors = dict[str, np.ndarray[Any, Any]]


def pair(stem: str, *, rank: int = 4, down: str = "lora_A", up: str = "lora_B") -> Tensors:
    random = np.random.default_rng(0)
    return {
        f"{stem}.{down}.weight": random.normal(size=(rank, 6)).astype(np.float32),
        f"{stem}.{up}.weight": random.normal(size=(5, rank)).astype(np.float32),
    }


def kohya(stem: str, *, rank: int = 4) -> Tensors:
    return pair(stem, rank=rank, down="lora_down", up="lora_up")


def write(tensors: Tensors, metadata: dict[str, str] | None = None) -> Path:
    path = Path("x.safetensors")
    save_file(tensors, path, metadata)
    return path


def problems(tensors: Tensors, metadata: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(LoraError) as caught:
        examine_lora(write(tensors, metadata))
    assert all(item.message.startswith("x.safetensors: ") for item in caught.value.problems)
    return [item.message.removeprefix("x.safetensors: ") for item in caught.value.problems]


@pytest.mark.parametrize(
    "tensors",
    [
        pair(LAYER),
        pair(f"transformer.{LAYER}"),
        pair(f"diffusion_model.{LAYER}"),
        pair(f"model.diffusion_model.{LAYER}"),
        pair(f"base_model.model.{LAYER}", down="lora_A.default", up="lora_B.default"),
        pair(f"base_model.model.transformer.{LAYER}"),
        pair(f"base_model.model.diffusion_model.{LAYER}"),
        pair(f"transformer.{LAYER}", down="lora.down", up="lora.up"),
        kohya(f"transformer.{LAYER}"),
    ],
    ids=lambda tensors: next(iter(tensors)),
)
def test_every_spelling_is_the_same_layer(tensors: Tensors) -> None:
    keys = sort_keys(tensors)

    assert [pair.layer for pair in keys.pairs] == [LAYER]
    assert [keys.pairs[0].down, keys.pairs[0].up] == list(tensors)
    assert examine_lora(write(tensors)).modules == 1


def test_facts_of_a_foreign_file_and_of_glances_own() -> None:
    path = write(pair("transformer.a", rank=2) | pair("transformer.b", rank=8))
    foreign = examine_lora(path)
    assert (foreign.path, foreign.sha256) == (path, hash_file(path))
    assert (foreign.rank, foreign.modules) == (8, 2)
    assert (foreign.phase, foreign.family, foreign.timesteps) == (None, None, None)

    header = {"glance.phase": "fast", "glance.family": "flux", "glance.folded_scale": "4.0"}
    own = examine_lora(write(pair("a"), {**header, "glance.timesteps": "[886.7, 562.95]"}))

    assert (own.phase, own.family) == (Phase.FAST, "flux")
    assert (own.timesteps, own.scale_is_known) == ((886.7, 562.95), True)


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("lora_unet_a.hada_w1_a", "LoHa"),
        ("a.lokr_w1", "LoKr"),
        ("a.oft_blocks", "OFT"),
        ("a.boft_R", "OFT"),
        ("a.dora_scale", "DoRA"),
        ("a.lora_magnitude_vector.weight", "DoRA"),
        ("a.diff", "differences of whole weights"),
        ("a.diff_b", "differences of whole weights"),
    ],
)
def test_other_adapters_are_called_by_their_names(key: str, kind: str) -> None:
    assert problems({key: np.ones(1), "lora_unet_a.alpha": np.ones(1)}) == [
        f"1 of its keys are {kind}, first {key}: glance loads only LoRA pairs"
    ]


@pytest.mark.parametrize(
    "stem", ["lora_te_x", "lora_te1_x", "text_encoder.x", "text_encoder_2.x", "text_encoders.x"]
)
def test_text_encoder_is_refused(stem: str) -> None:
    assert problems(pair("transformer.a") | pair(stem)) == [
        f"2 of its keys are a text encoder's, first {stem}.lora_A.weight: "
        "glance loads only the transformer's"
    ]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "it holds no LoRA pair"),
        ({"a.alpha": np.ones(1)}, "no pair belongs to a.alpha"),
        (
            {"proj.weight": np.ones(1), "a.lora_B.bias": np.ones(1)},
            "2 of its keys are no half of a LoRA pair: a.lora_B.bias, proj.weight",
        ),
        ({"a.lora_A.weight": np.ones((4, 6))}, "no lora_B (up) belongs to a.lora_A.weight"),
        ({"a.lora_up.weight": np.ones((5, 4))}, "no lora_A (down) belongs to a.lora_up.weight"),
        (
            {"a.lora_A.weight": np.ones((4, 6)), "a.lora_B.weight": np.ones((5, 2))},
            "a.lora_A.weight has rank 4, a.lora_B.weight has rank 2",
        ),
        (
            {"a.lora_A.weight": np.ones((0, 6)), "a.lora_B.weight": np.ones((5, 0))},
            "a.lora_A.weight has rank 0, a.lora_B.weight has rank 0",
        ),
        (
            {"a.lora_A.weight": np.ones((4, 6, 1, 1)), "a.lora_B.weight": np.ones((5, 4, 1, 1))},
            "a has shapes (4, 6, 1, 1) and (5, 4, 1, 1), not of two dimensions each",
        ),
        (
            {key: value.astype(np.int8) for key, value in pair("a").items()},
            "glance reads F64, F32, F16, BF16, not a.lora_A.weight (I8), a.lora_B.weight (I8)",
        ),
        (
            pair("a") | {"a.lora_B.weight": np.zeros((5, 4))},
            "every lora_B (up) is zero: it changes nothing",
        ),
        (pair("transformer.a") | kohya("lora_unet_a"), "it has more than one pair for a"),
        (pair("a") | {"a.alpha": np.ones(2)}, "NaN, infinity or no number is in a.alpha"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_lora_is_refused(tensors: Tensors, message: str) -> None:
    assert problems(tensors) == [message]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("key", ["a.lora_A.weight", "a.lora_B.weight", "a.alpha"])
def test_value_that_is_not_finite_is_named(key: str, value: float) -> None:
    tensors = pair("a") | {"a.alpha": np.ones(1)}
    tensors[key].flat[0] = value

    assert problems(tensors) == [f"NaN, infinity or no number is in {key}"]


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"lora_adapter_metadata": "{"}, "its lora_adapter_metadata cannot be read: Expecting"),
        ({"lora_adapter_metadata": "[]"}, "its lora_adapter_metadata cannot be read: "),
        ({"lora_adapter_metadata": '{"lora_alpha": "x"}'}, "its lora_adapter_metadata cannot be"),
        (
            {"lora_adapter_metadata": '{"lora_alpha": 1, "alpha_pattern": {"(": 1}}'},
            "its lora_adapter_metadata cannot be read: ",
        ),
        (
            {"lora_adapter_metadata": '{"transformer.use_dora": true}'},
            "it is a DoRA: glance loads only LoRA pairs",
        ),
        ({"glance.phase": "third"}, "its header says phase third: slow, fast exist"),
        ({"glance.timesteps": "soon"}, "its header holds no list of timesteps: soon"),
        ({"glance.timesteps": "5"}, "its header holds no list of timesteps: 5"),
        ({"glance.guidance": "high"}, "its header holds no guidance: high"),
        ({"glance.guidance": "nan"}, "its header holds no guidance: nan"),
    ],
)
def test_header_that_cannot_be_read_is_refused(metadata: dict[str, str], message: str) -> None:
    (found,) = problems(pair("a"), metadata)

    assert found.startswith(message)


def test_all_problems_come_at_once() -> None:
    tensors = pair("a") | {"a.lora_B.weight": np.full((5, 2), np.nan), "b.hada_w1_a": np.ones(1)}

    found = problems(tensors | pair("text_encoder.c"), {"glance.phase": "third"})

    assert [message.split()[-1] for message in found] == ["transformer's", "pairs", "2",
                                                           "a.lora_B.weight", "exist"]  # fmt: skip
