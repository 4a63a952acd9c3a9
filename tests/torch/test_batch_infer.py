"""`glance batch infer` with a tiny model: what single commands make, to the byte, and once."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from fakes.pairs import write_run
from PIL import Image
from safetensors.torch import load_file, save_file

from glance.batch import infer
from glance.batch.infer import plan_batch_infer, run_batch_infer
from glance.batch.request import BatchInferRequest
from glance.core.device import Quantize
from glance.core.events import Event, PictureDone, SamplingStep, Warned
from glance.core.phase import Phase
from glance.runs.manifest import load_manifest, record_schedule
from glance.sampling.generate import KeptModel, run_generation
from glance.sampling.pipeline.encodings import Encodings
from glance.sampling.plan import plan_generation
from glance.sampling.request import InferRequest
from glance.schedule.lists import Schedule

ASKED = {"prompts": ("a hill", "a mill"), "seeds": (1, 2), "device": "cpu"}
RUNS = ("a", "b", "c")


@pytest.fixture
def model(tiny_flux: Path) -> Path:
    Path("model").symlink_to(tiny_flux)
    return tiny_flux


@pytest.fixture
def runs(model: Path, loras: dict[str, Path]) -> Path:
    """Three runs of one model: other values, other layers, ranks and lists, of few steps."""
    lists = {"a": ((1000, 900), (500,)), "b": ((1000, 900), (500,)), "c": ((1000,), (700, 300))}
    for number, name in enumerate(RUNS):
        run = write_run(Path("runs") / name, model="../../model", rank=4)
        for phase in Phase:
            tensors = load_file(loras[phase])
            if name == "b":
                tensors = make_tensors(model, (".to_q", ".ff.net.2", "proj_out"), rank=7)
            scaled = {key: tensor * (1 - 0.2 * number) for key, tensor in tensors.items()}
            save_file(scaled, run.lora(phase), metadata={"format": "pt"})
        schedule = record_schedule(Schedule("custom", *lists[name]))
        load_manifest(run).model_copy(update={"schedule": schedule}).save(run)
    return Path("runs")


def make_tensors(model: Path, ends: tuple[str, ...], *, rank: int) -> dict[str, torch.Tensor]:
    transformer = diffusers.FluxTransformer2DModel.from_pretrained(model / "transformer")
    generator = torch.Generator().manual_seed(rank)
    tensors = {}
    for name, layer in transformer.named_modules():
        if isinstance(layer, torch.nn.Linear) and name.endswith(ends):
            for half, shape in (
                ("A", (rank, layer.in_features)),
                ("B", (layer.out_features, rank)),
            ):
                key = f"transformer.{name}.lora_{half}.weight"
                tensors[key] = 0.2 * torch.randn(shape, generator=generator)
    return tensors


def request(*runs: str, **asked: Any) -> BatchInferRequest:
    own = {name: asked.pop(name) for name in ("devices", "part", "output") if name in asked}
    images = InferRequest(**{**ASKED, **asked})
    return BatchInferRequest(runs=tuple(Path("runs") / run for run in runs), images=images, **own)


def generate(*runs: str, **asked: Any) -> infer.BatchInferResult:
    return run_batch_infer(plan_batch_infer(request(*runs, **asked)), lambda _: None)


def made_singly(*runs: str, **asked: Any) -> dict[str, bytes]:
    """What `glance infer` makes of each image, each with a model that is loaded for it."""
    found = {}
    settings = {**ASKED, **asked}
    prompts, seeds = settings.pop("prompts"), settings.pop("seeds")
    for run in runs:
        for prompt, seed in ((prompt, seed) for prompt in prompts for seed in seeds):
            place = Path("images/singly") / run / f"{prompt.replace(' ', '-')}-{seed}.png"
            one = {"prompts": (prompt,), "seeds": (seed,), "output": place}
            planned = plan_generation(InferRequest(run=Path("runs") / run, **settings, **one))
            run_generation(planned, lambda _: None)
            found[f"{run}/{place.name}"] = place.read_bytes()
    return found


MADE = Path("images/batch")


def files() -> dict[str, bytes]:
    found = (path for path in sorted(MADE.rglob("*.png")))
    return {str(path.relative_to(MADE)): path.read_bytes() for path in found}


def times() -> dict[str, int]:
    return {name: (MADE / name).stat().st_mtime_ns for name in files()}


class Watch:
    """What is loaded, how often, and which adapters are there when a run's turn has come."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loads = self.encoded = 0
        self.adapters: list[dict[str, list[str]]] = []
        self.tensors: list[int] = []
        from_pretrained, load = diffusers.FluxPipeline.from_pretrained, KeptModel.load

        def count_load(*given: Any, **options: Any) -> Any:
            self.loads += 1
            if Path(given[0]).name == "broken":
                raise OSError("made up")
            pipeline = from_pretrained(*given, **options)
            pipeline.text_encoder_2.register_forward_pre_hook(self._count_encoding)
            return pipeline

        def look(model: KeptModel, *given: Any) -> Any:
            sampler = load(model, *given)
            pipeline = sampler.pipeline
            self.adapters.append({k: sorted(v) for k, v in pipeline.get_list_adapters().items()})
            names = (name for name, _ in pipeline.transformer.named_parameters())
            self.tensors.append(sum(".lora_" in name for name in names))
            return sampler

        monkeypatch.setattr(diffusers.FluxPipeline, "from_pretrained", count_load)
        monkeypatch.setattr(KeptModel, "load", look)

    def _count_encoding(self, *_: Any) -> None:
        self.encoded += 1


@pytest.mark.parametrize("quantize", [None, Quantize.BIT8, Quantize.FP8])
def test_every_image_is_what_a_command_for_it_alone_makes_to_the_byte(
    runs: Path, model: Path, quantize: Quantize | None
) -> None:
    style = make_tensors(model, (".to_q", ".to_v"), rank=3)
    layers = [key.removesuffix("lora_A.weight") for key in style if "lora_A" in key]
    alphas = {f"{layer}alpha": torch.tensor(6.0) for layer in layers}
    save_file({**style, **alphas}, "style.safetensors")
    asked: Mapping[str, Any] = {"quantize": quantize}
    if quantize is not None:  # the whole of it once is enough
        asked = {**asked, "seeds": (1,), "prompts": ("a hill",)}
    asked = {**asked, "extra_loras": ("style.safetensors:0.5",)}

    result = generate(*RUNS, **asked)

    alone = made_singly(*RUNS, **asked)
    there = files()
    sheet = there.pop("sheet.png")
    assert there == alone
    assert len({*alone.values()}) == len(alone)
    assert [str(path.relative_to("images/batch")) for path in result.images] == [*alone]
    assert result.sheet is not None
    assert sheet


def test_a_model_is_loaded_once_prompts_are_encoded_once_and_no_lora_is_left_behind(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(monkeypatch)
    events: list[Event] = []

    run_batch_infer(plan_batch_infer(request("a", "b", "c")), events.append)

    assert (watch.loads, watch.encoded) == (1, 2)
    assert watch.adapters == [{"transformer": ["fast", "slow"]}] * 3
    first, other, third = watch.tensors
    assert first == third != other
    numbers = [(one.number, one.total) for one in events if isinstance(one, PictureDone)]
    assert numbers == [(number, 12) for number in range(1, 13)]
    steps = [(one.done, one.total) for one in events if isinstance(one, SamplingStep)]
    assert steps == [(step, 36) for step in range(1, 37)]


def test_what_is_kept_of_prompts_has_a_bound() -> None:
    kept, encoded = Encodings(most_bytes=100), {"a": torch.ones(10), "b": [torch.ones(10)]}

    kept.keep("first", encoded)
    kept.keep("second", encoded)

    found = kept.find("first")
    assert found is not None
    assert torch.equal(found["b"][0], encoded["b"][0])
    assert kept.find("second") is None


def test_two_models_take_turns_and_runs_of_one_are_together(
    runs: Path, tiny_flux: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_flux, "runs/b/model")
    load_run = load_manifest(infer.RunFolder(runs / "b"))
    settings = load_run.settings.model_copy(update={"model": "model"})
    load_run.model_copy(update={"settings": settings}).save(infer.RunFolder(runs / "b"))
    watch = Watch(monkeypatch)

    result = generate("a", "b", "c", seeds=(1,))

    assert watch.loads == 2
    assert [one.run.name for one in result.runs] == ["a", "c", "b"]


def test_what_is_made_stays_when_the_rest_fails_and_is_made_by_nobody_again(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(event: Event) -> None:
        if isinstance(event, PictureDone) and event.number == 6:
            raise RuntimeError("made up")

    with pytest.raises(RuntimeError, match="made up"):
        run_batch_infer(plan_batch_infer(request(*RUNS)), fail)
    before = times()
    events: list[Event] = []

    run_batch_infer(plan_batch_infer(request(*RUNS)), events.append)

    assert len(before) == 6
    assert before.items() <= times().items()
    told = [one.was_there for one in events if isinstance(one, PictureDone)]
    assert told == [True] * 6 + [False] * 6
    watch = Watch(monkeypatch)
    assert len(generate(*RUNS).images) == 12
    assert watch.loads == 0
    again = generate(*RUNS, restart=True, seeds=(1,), prompts=("a hill",))
    assert len(again.images) == 3
    assert times()["a/a-hill-1.png"] > before["a/a-hill-1.png"]
    assert watch.loads == 1


def test_what_another_command_has_made_meanwhile_is_not_made_again(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    early = plan_batch_infer(request(*RUNS))
    generate(*RUNS)
    watch = Watch(monkeypatch)

    result = run_batch_infer(early, lambda _: None)

    assert (watch.loads, len(result.images)) == (0, 12)


def test_a_lora_that_does_not_fit_and_a_model_that_does_not_load_cost_their_runs_alone(
    runs: Path, loras: dict[str, Path], tiny_flux: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strange = {
        key.replace("blocks.0", "blocks.70"): it for key, it in load_file(loras["fast"]).items()
    }
    save_file(strange, runs / "b/output/glance-fast/pytorch_lora_weights.safetensors")
    shutil.copytree(tiny_flux, "broken")
    for name in ("d", "e"):
        write_run(runs / name, model="../../broken")
    watch = Watch(monkeypatch)
    events: list[Event] = []

    result = run_batch_infer(plan_batch_infer(request("a", "b", "c", "d", "e")), events.append)

    assert [one.run.name for one in result.refused] == ["b", "d", "e"]
    assert [one.exit_code for one in result.refused] == [4, 3, 3]
    assert result.exit_code == 4
    assert watch.loads == 2  # the broken one is not tried again
    assert [len(one.images) for one in result.runs] == [4, 0, 4, 0, 0]
    warned = [one.message for one in events if isinstance(one, Warned)]
    assert "6 of its 6 layers are not the model's" in warned[0]
    assert warned[1].startswith("runs/d: the model ")
    with Image.open("images/batch/sheet.png") as sheet:
        assert sheet.width < 3 * 168  # a and c


@pytest.mark.extended
def test_devices_share_the_images_and_the_sheet_comes_when_all_are_there(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with GPUs, of which this machine has none: each process takes what is there."""
    monkeypatch.setattr(infer, "require_device", lambda *_: None)
    monkeypatch.setattr(infer, "cuda_device_count", lambda: 2)
    first = generate(*RUNS, seeds=(1,), part=(1, 3))
    assert (len(first.images), first.sheet) == (2, None)
    events: list[Event] = []
    asked = {"seeds": (1,), "device": "auto", "devices": (0, 1)}

    result = run_batch_infer(plan_batch_infer(request("a", "b", "c", **asked)), events.append)

    assert len(result.images) == 6
    assert result.sheet == Path("images/batch/sheet.png")
    told = [one for one in events if isinstance(one, PictureDone)]
    assert sorted(one.number for one in told) == [1, 2, 3, 4, 5, 6]
    assert sum(one.was_there for one in told) == 2
    assert {one.name for one in Path("images/batch/logs").iterdir()} == {
        *("images-1-of-2.log", "images-2-of-2.log"),
    }
    assert all(one.seconds["slow"] > 0 for one in result.runs[1:])
    assert files().keys() == {"sheet.png"} | made_singly(*RUNS, seeds=(1,)).keys()
    last = generate(*RUNS, seeds=(1, 2), prompts=("a hill",), part=(2, 2))
    assert last.sheet is None
    assert generate(*RUNS, seeds=(1, 2), prompts=("a hill",), part=(1, 2)).sheet == result.sheet


def test_killed_in_the_middle_the_same_command_makes_the_rest(runs: Path) -> None:
    command = ("batch", "infer", "--run", "runs/a", "--run", "runs/b", "-p", "a hill")
    running = subprocess.Popen(
        [sys.executable, "-m", "glance", *command, "--count", "400"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert running.stdout is not None
    told = [running.stdout.readline().strip() for _ in range(3)]
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=60)
    before = {name: time for name, time in times().items() if "/." not in name}
    assert {str(MADE / name) for name in before} >= {*told}
    for name in before:
        with Image.open(MADE / name) as image:
            image.load()

    result = generate("a", "b", prompts=("a hill",), seeds=(0, 1, 2, 3))

    assert len(result.images) == 8
    assert before.items() <= times().items()
    assert result.sheet == MADE / "sheet.png"
