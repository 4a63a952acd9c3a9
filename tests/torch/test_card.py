"""What benchmarks.card measures: each part on the CPU, small, so that a card's is not the first."""

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from fakes.trainer import FakeSimpleTuner
from torchao.quantization import Int8Tensor

from benchmarks.card import sampling, training
from benchmarks.card.__main__ import main
from benchmarks.card.models import FLUX_DEV, Situation, build, count_parameters, lacks_memory
from benchmarks.card.parts import PARTS, tiny_parts
from benchmarks.card.runner import Folder
from benchmarks.records import load_record
from glance.core.device import Device, Precision, Quantize
from glance.core.errors import InferenceFailed
from glance.models.families import find_family


@pytest.fixture
def here(tmp_path: Path) -> Situation:
    return Situation(device=Device.CPU, is_tiny=True, work=tmp_path)


def test_the_random_model_is_as_large_as_flux() -> None:
    size = find_family("flux").size

    found = {name: round(one / 1e9, 2) for name, one in count_parameters(FLUX_DEV).items()}

    assert found == {
        "transformer": pytest.approx(size.transformer, abs=0.02),
        "text_encoder": size.text_encoders[0],
        "text_encoder_2": size.text_encoders[1],
    }


@pytest.mark.parametrize("quantize", [Quantize.NONE, Quantize.BIT8])
def test_every_weight_is_made_in_the_precision_that_it_is_kept_in(
    here: Situation, quantize: Quantize
) -> None:
    pipeline = build(here, here.fit(dtype=Precision.BF16, quantize=quantize)).pipeline

    parts = {name: getattr(pipeline, name) for name in ("transformer", "text_encoder_2", "vae")}
    weights = [one for part in parts.values() for one in part.parameters()]
    assert {one.device.type for one in weights} == {"cpu"}
    assert {one.dtype for one in weights} == {torch.bfloat16}
    t5 = parts["text_encoder_2"]
    assert t5.encoder.embed_tokens.weight is t5.shared.weight
    assert float(t5.encoder.final_layer_norm.weight.mean()) == 1
    kept = {type(layer.weight) for layer in _linear(t5)}
    assert kept == ({Int8Tensor} if quantize is Quantize.BIT8 else {torch.nn.Parameter})
    assert {type(layer.weight) for layer in _linear(pipeline.text_encoder)} == {torch.nn.Parameter}


def _linear(part: torch.nn.Module) -> Iterator[torch.nn.Linear]:
    return (layer for layer in part.modules() if isinstance(layer, torch.nn.Linear))


def test_want_of_memory_is_known_in_torchs_words_and_in_glances() -> None:
    said = InferenceFailed("memory does not suffice", hint=None)
    said.__cause__ = torch.OutOfMemoryError("CUDA out of memory.")

    assert lacks_memory(said)
    assert lacks_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert not lacks_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@pytest.mark.parametrize(
    ("total", "needed", "smallest", "tried"),
    [
        (150e9, 15e9, 16, [24, 16, 12]),
        (150e9, 30e9, None, [24]),
        (25.2e9, 20e9, 24, [16]),  # one of 24 GB: it has just done
        (25.2e9, 2e9, 12, [16, 12]),
    ],
)
def test_ever_smaller_cards_are_pretended_until_one_does_not_do(
    here: Situation,
    monkeypatch: pytest.MonkeyPatch,
    total: float,
    needed: float,
    smallest: int | None,
    tried: list[int],
) -> None:
    shares: list[float] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (0, int(total)))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", shares.append)

    def paint() -> None:
        if shares[-1] * total < needed:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    assert sampling._find_smallest(replace(here, device=Device.CUDA), paint) == smallest
    assert [round((share * total + 1e9) / 2**30) for share in shares] == tried


def test_a_trainer_is_given_no_more_than_a_smaller_card_has(
    here: Situation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "cuda_memory", lambda: int(150e9))
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    on_card = replace(here, device=Device.CUDA)

    with training._pretending(on_card, 24) as is_pretended:
        told = os.environ["PYTORCH_CUDA_ALLOC_CONF"]
    with training._pretending(on_card, 200) as is_beyond:
        pass

    assert (is_pretended, is_beyond) == (True, False)
    assert told == "expandable_segments:True,per_process_memory_fraction:0.1651"
    assert os.environ["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"


def test_the_cards_memory_is_what_came_on_top(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nprintf '1000\\n[N/A]\\n21000\\n1500\\n'\nsleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    with training._watching_card(Device.CUDA) as seen:
        deadline = time.monotonic() + 20
        while len(seen) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)

    assert seen == [0, 20000 * 2**20, 500 * 2**20]


def test_what_every_part_calls_is_there() -> None:
    for part in PARTS:
        module, function = part.call.split(".")
        assert callable(getattr(import_module(f"benchmarks.card.{module}"), function))


def test_a_tiny_run_goes_through_every_part(
    tmp_path: Path,
    simpletuner: FakeSimpleTuner,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    package = simpletuner.lay_out_script()
    monkeypatch.setenv("PYTHONPATH", f"{package}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")

    assert main(["--tiny", "--minutes", "10", "--output", str(tmp_path / "out")]) == 0

    folder = Folder(tmp_path / "out")
    found = {part.name: folder.finding(part.name) for part in tiny_parts(Device.CPU)}
    assert {name: one.outcome for name, one in found.items() if one.outcome != "ended"} == {}, (
        folder.log(next(iter(found))).read_text()
    )
    (file,) = folder.path.glob("tiny-*.json")
    record = load_record(file)
    shown = {result.name for one in found.values() for result in one.results}
    assert set(record.results) == {*shown, "card"}
    assert str(tmp_path) not in repr(record)
    assert record.results["card, ways to fit"].rows[-1].figures
    assert capfd.readouterr().out.strip().endswith("-cpu.json")
