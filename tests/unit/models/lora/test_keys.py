"""How strongly a LoRA is applied: the same answer for everybody, wherever its trainer wrote it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from glance.cli._description import describe
from glance.core.errors import LoraError
from glance.core.phase import Phase
from glance.interop.foreign import open_lora
from glance.models.lora.examine import examine_lora
from glance.models.lora.keys import Strength, read_file_strength

Q, FF = "transformer_blocks.0.attn.to_q", "transformer_blocks.0.ff.net.0.proj"
FILE = Path("lora/adapter_model.safetensors")
PEFT = {"peft_type": "LORA", "r": 4, "lora_alpha": 16}

type Tensors = dict[str, np.ndarray[Any, Any]]


def pair(layer: str, *, rank: int = 4, spelling: tuple[str, str] = ("lora_A", "lora_B")) -> Tensors:
    down, up = spelling
    return {
        f"{layer}.{down}.weight": np.ones((rank, 6), np.float32),
        f"{layer}.{up}.weight": np.ones((5, rank), np.float32),
    }


def write(
    tensors: Tensors | None = None,
    header: dict[str, str] | None = None,
    *,
    beside: Any = None,
    name: str = "adapter_config.json",
) -> Path:
    FILE.parent.mkdir(exist_ok=True)
    own = pair(f"base_model.model.{Q}") if tensors is None else tensors
    save_file(own, FILE, header)
    if beside is not None:
        text = beside if isinstance(beside, str) else json.dumps(beside)
        (FILE.parent / name).write_text(text)
    return FILE


def strength(**given: Any) -> Strength:
    """Read it as all who ask: what examines, describes and imports a file says the same."""
    path = write(**given)
    found = read_file_strength(path)
    assert examine_lora(path).strength == found
    document = describe(path).document
    assert document["alpha"] == found.source
    assert sum(document["scales"].values()) == len(found.factors)
    assert {float(scale) for scale in document["scales"]} == {
        float(f"{factor:g}") for factor in found.factors.values()
    }
    if found.source is not None:
        assert open_lora(str(path), Phase.SLOW).factors == found.factors
    return found


@pytest.mark.parametrize(
    ("more", "factor"),
    [
        ({}, 4.0),
        ({"use_rslora": True}, 8.0),
        ({"alpha_pattern": {"to_q": 2}}, 0.5),
        ({"alpha_pattern": {"o_q": 2}}, 4.0),  # part of a name
        ({"alpha_pattern": {"^to_q": 2}}, 4.0),  # from the start
        ({"alpha_pattern": {r"transformer_blocks\.\d+\.attn\.to_q": 8}}, 2.0),
        ({"r": 8, "rank_pattern": {"to_q": 4}}, 4.0),
        ({"r": 8, "rank_pattern": {"to_q": 4}, "alpha_pattern": {"attn.to_q": 4}}, 1.0),
        ({"alpha_pattern": None, "rank_pattern": None, "use_rslora": None}, 4.0),
        ({"peft_type": "PeftType.LORA", "init_lora_weights": "gaussian"}, 4.0),
        ({"r": None}, 4.0),
    ],
    ids=lambda value: str(value),
)
def test_pefts_config_beside_the_file_is_read(more: dict[str, Any], factor: float) -> None:
    found = strength(beside={**PEFT, **more})

    assert found.factors == {Q: factor}
    assert found.source == "alpha is in adapter_config.json beside it"
    assert not found.is_own
    assert not found.is_in_tensors


def test_its_patterns_hold_layer_by_layer() -> None:
    tensors = pair(f"base_model.model.{Q}") | pair(f"base_model.model.{FF}", rank=2)
    more = {"rank_pattern": {FF: 2}, "alpha_pattern": {FF: 3}}

    found = strength(tensors=tensors, beside={**PEFT, **more})

    assert found.factors == {Q: 4.0, FF: 1.5}
    assert found.factor is None


@pytest.mark.parametrize(
    ("beside", "message"),
    [
        ("{", "lora/adapter_config.json cannot be read"),
        ("[]", "lora/adapter_config.json cannot be read: it holds no config"),
        ({**PEFT, "lora_alpha": "much"}, "lora/adapter_config.json cannot be read"),
        ({**PEFT, "lora_alpha": True}, "alpha True is no number"),
        ({**PEFT, "alpha_pattern": {"(": 1}}, "lora/adapter_config.json cannot be read"),
        ({**PEFT, "rank_pattern": {"(": 1}}, "lora/adapter_config.json cannot be read"),
        ({**PEFT, "r": 16}, "lora/adapter_config.json is of rank 16, the LoRA of 4"),
        ({**PEFT, "peft_type": "LOKR"}, "is of another kind of adapter, LOKR"),
        ({**PEFT, "use_dora": True}, "it is a DoRA"),
        ({**PEFT, "init_lora_weights": "pissa_niter_4"}, "says init_lora_weights pissa_niter_4"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_config_that_cannot_be_believed_is_refused(beside: Any, message: str) -> None:
    path = write(beside=beside)

    with pytest.raises(LoraError) as caught:
        examine_lora(path)

    (problem,) = caught.value.problems
    assert problem.message.startswith(f"{path}: ")
    assert message in problem.message
    assert problem.hint or "DoRA" in message
    told = describe(path).document["problems"]
    assert message in told[0]["message"]


def test_a_file_that_says_it_itself_does_not_need_the_config() -> None:
    alone = {**pair(Q), f"{Q}.alpha": np.asarray(8, np.float32)}

    assert strength(tensors=alone, beside="{").factors == {Q: 2.0}
    assert strength(header={"lora_alpha": "8"}, beside={**PEFT, "r": 64}).factors == {Q: 2.0}


def test_a_config_that_contradicts_the_header_is_refused() -> None:
    path = write(header={"lora_alpha": "128"}, beside=PEFT)

    with pytest.raises(LoraError, match=r"header says alpha 128, lora/adapter_config.json says 16"):
        examine_lora(path)


def test_simpletuners_options_beside_the_file_are_read() -> None:
    name = "simpletuner_config.json"

    assert strength(beside={"--lora_alpha": 8, "--lora_rank": 4}, name=name).factors == {Q: 2.0}
    assert strength(beside={"lora_alpha": None, "lora_rank": 4}, name=name).factors == {Q: 1.0}
    assert strength(beside={"lora_alpha": 8, "lora_rank": 64}, name=name).source is None
    assert strength(beside="{", name=name).source is None
    write(beside={"lora_alpha": 8, "lora_rank": 4}, name=name)
    checkpoint = FILE.parent / "checkpoint-5" / FILE.name  # the folder above has them
    checkpoint.parent.mkdir()
    assert read_file_strength(FILE.rename(checkpoint)).factors == {Q: 2.0}


@pytest.mark.parametrize(
    ("header", "factor"),
    [
        ({"lora_alpha": "128"}, 32.0),
        ({"lora_alpha": "8.0"}, 2.0),
        ({"transformer.lora_alpha": "8"}, 2.0),
        ({"network_alpha": "8", "r": "4"}, 2.0),
        ({"lora_alpha": "8", "use_rslora": "True"}, 4.0),
        ({"lora_alpha": "8", "alpha_pattern": '{"to_q": 2}'}, 0.5),
        ({"lora_config": '{"r": 4, "lora_alpha": 8}'}, 2.0),
        ({"adapter_config": '{"r": 4, "lora_alpha": 8, "use_rslora": true}'}, 4.0),
        ({"lora_adapter_metadata": '{"transformer.lora_alpha": 8, "transformer.r": 4}'}, 2.0),
        ({"lora_adapter_metadata": '{"lora_alpha": 8}', "lora_alpha": "64"}, 2.0),
        ({"ss_network_alpha": "8", "ss_network_dim": "4"}, 2.0),
        ({"ss_network_alpha": "2.0"}, 0.5),
        ({"ss_network_alpha": "64", "lora_alpha": "8"}, 2.0),
    ],
    ids=str,
)
def test_the_header_is_read_in_anybodys_words(header: dict[str, str], factor: float) -> None:
    found = strength(header=header)

    assert found.factors == {Q: factor}
    assert (found.source or "").startswith("alpha is in its header")
    assert found.is_own


@pytest.mark.parametrize(
    "header",
    [
        {"lora_alpha": "None"},
        {"lora_alpha": "", "network_alpha": "null"},
        {"ss_network_alpha": "Dynamic", "ss_network_dim": "Dynamic"},
        {"ss_network_alpha": "0"},
        {"ss_network_alpha": "8", "ss_network_dim": "64"},
        {"ss_network_alpha": "8", "ss_network_module": "networks.lora_qwen_image"},
        {"training_comment": "lora_alpha 8 was best"},
    ],
    ids=str,
)
def test_what_says_nothing_of_this_file_is_taken_as_the_rank(header: dict[str, str]) -> None:
    found = strength(header=header)

    assert (found.factors, found.source) == ({Q: 1.0}, None)


def test_kohyas_network_by_its_own_names_has_its_note_of_alpha() -> None:
    header = {"ss_network_alpha": "8", "ss_network_module": "networks.lora_flux"}
    tensors = pair(f"lora_unet_{Q.replace('.', '_')}", spelling=("lora_down", "lora_up"))

    assert strength(tensors=tensors, header=header).factor == 2.0


def test_tensors_go_before_all_and_what_they_leave_open_is_looked_up() -> None:
    tensors = pair(Q) | pair(FF) | {f"{Q}.lora_alpha": np.asarray([2], np.int64)}

    assert strength(tensors=tensors).factors == {Q: 0.5, FF: 1.0}
    found = strength(tensors=tensors, header={"lora_alpha": "16"})
    assert (found.factors, found.is_in_tensors) == ({Q: 0.5, FF: 4.0}, False)


@pytest.mark.parametrize(
    ("header", "alpha", "said"),
    [
        *(({"lora_alpha": text}, None, "header's lora_alpha cannot") for text in ("soon", "[4]")),
        ({}, 0, "and is 0: it changes nothing"),
    ],
)
def test_a_strength_that_cannot_be_is_refused(
    header: dict[str, str], alpha: float | None, said: str
) -> None:
    more = {} if alpha is None else {f"{Q}.alpha": np.asarray(alpha, np.float32)}

    with pytest.raises(LoraError, match=said):
        examine_lora(write({**pair(Q), **more}, header))


def test_two_adapters_in_one_file_are_not_mixed_up() -> None:
    slow = pair(Q, spelling=("lora_A.slow", "lora_B.slow"))
    fast = pair(Q, spelling=("lora_A.fast", "lora_B.fast"))

    assert strength(tensors=slow).factors == {Q: 1.0}
    with pytest.raises(LoraError, match=f"more than one pair for {Q}"):
        examine_lora(write(slow | fast))
