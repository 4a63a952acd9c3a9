"""Previews beside a training: the fake trainer trains, and `glance infer` is played."""

import json
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from fakes.runs import FAST, RUN, SLOW, make_plan, needs_half, needs_whole, states
from fakes.trainer import FakeSimpleTuner, find_processes
from PIL import Image

from glance.core.errors import GlanceError, SettingsError, TrainingFailed
from glance.core.events import Event, MemoryUsed, Noted, PhaseFinished, PreviewDone, Warned
from glance.core.phase import Phase
from glance.models.lora.file import read_lora
from glance.runs.manifest import PhaseState, PreviewRecord, load_manifest
from glance.training.execute import run_training
from glance.training.plan import plan_training
from glance.training.previews import Previews
from glance.training.request import TrainRequest
from glance.training.simpletuner.runner import Job, ProcessRunner
from glance.training.trainer import RunRecord, TrainerSetup

FINISHED = "output/glance-{}/pytorch_lora_weights.safetensors"
LATER = "the previews are made once the training is over"

MEMORY = SimpleNamespace(available=1e12, total=1e12)

type Outcome = Callable[[Job, Callable[[str], None]], int]


@pytest.fixture(autouse=True)
def _much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: MEMORY)


def paint(job: Job, _: Callable[[str], None]) -> int:
    RUN.previews.mkdir(parents=True, exist_ok=True)
    for line in (job.folder / "config/previews.jsonl").read_text().splitlines():
        asked = json.loads(line)
        size = (asked["width"], asked["height"])
        Image.new("RGB", size, "red").save(RUN.previews / asked["output"])
    return 0


def refuse(_: Job, on_line: Callable[[str], None]) -> int:
    for line in ("loading", "error: memory does not suffice for denoising", "  hint: a larger one"):
        on_line(line)
    return 6


def crash(_: Job, __: Callable[[str], None]) -> int:
    raise OSError("no more processes")


class Runner(ProcessRunner):
    """Runs trainers; of samplings these outcomes come first, then all goes well."""

    def __init__(self, *outcomes: Outcome) -> None:
        super().__init__()
        self.outcomes = deque(outcomes)
        self.jobs: list[Job] = []
        self.hangs = threading.Event()

    def run(self, job: Job, on_line: Callable[[str], None]) -> int:
        if "infer" not in job.command:
            return super().run(job, on_line)
        self.jobs.append(job)
        outcome = self.outcomes.popleft() if self.outcomes else paint
        return outcome(job, on_line)

    def hang(self, job: Job, on_line: Callable[[str], None]) -> int:
        """Write half an image, then sleep."""
        script = (
            "import time; open('images/previews/.half.png', 'w'); print('up', flush=True)\n"
            "time.sleep(600)"
        )
        command = [sys.executable, "-c", script, "a-sampling"]
        return super().run(
            replace(job, command=command), lambda line: (self.hangs.set(), on_line(line))[1]
        )

    def said(self, flag: str) -> list[str]:
        return [str(job.command[job.command.index(flag) + 1]) for job in self.jobs]


def train(runner: Runner, listen: Callable[[Event], None] = lambda _: None, **changes: Any) -> Any:
    events: list[Event] = []

    def on_event(event: Event) -> None:
        events.append(event)
        listen(event)

    run_training(make_plan(**{"preview_every": 2, **changes}), on_event, runner=runner)
    return events


def made(events: list[Event]) -> list[int]:
    return [event.step for event in events if isinstance(event, PreviewDone)]


def warned(events: list[Event]) -> list[tuple[str, str | None]]:
    return [(one.message, one.hint) for one in events if isinstance(one, Warned)]


@pytest.mark.usefixtures("pair")
def test_the_pair_so_far_is_sampled_at_each_multiple_and_at_the_end(
    simpletuner: FakeSimpleTuner,
) -> None:
    runner = Runner()

    events = train(runner)

    assert (made(events), warned(events), states()) == ([2, 4, 5], [], ("done", "done"))
    copies = [f"images/previews/step-{step:04}-fast.safetensors" for step in (2, 4)]
    assert runner.said("--fast-lora") == [*copies, FINISHED.format("fast")]
    assert runner.said("--slow-lora") == [FINISHED.format("slow")] * 3
    lines = (RUN.path / "config/previews.jsonl").read_text().splitlines()
    shown = [json.loads(line) for line in lines]
    assert shown[0]["prompt"] == "a grey circle" != shown[1]["prompt"]
    assert [one["output"] for one in shown] == ["step-0005-1.png", "step-0005-2.png"]
    # what was copied is a finished LoRA: alpha is in it
    lora, final = read_lora(RUN.path / copies[0]), read_lora(RUN.lora(FAST))
    assert lora.metadata["glance.timesteps"] == final.metadata["glance.timesteps"]
    for key, tensor in final.tensors.items():
        np.testing.assert_array_equal(lora.tensors[key].to_float(), tensor.to_float())
    with Image.open(RUN.previews / "strip.png") as strip:
        assert strip.width > 3 * 160
        assert strip.convert("RGB").getpixel((20, 60)) == (255, 0, 0)
    assert events[-1] == Noted(f"all previews: {RUN.previews / 'strip.png'}")
    again = Runner()
    assert made(train(again)) == []
    assert again.jobs == []


@pytest.mark.usefixtures("pair", "simpletuner")
@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (refuse, "memory does not suffice for denoising"),
        (lambda *_: 137, "it was killed, most likely because the system ran out of memory"),
        (lambda *_: 1, "its process ended with 1"),
        (crash, "no more processes"),
    ],
)
def test_what_fails_beside_the_training_is_made_after_it(outcome: Outcome, reason: str) -> None:
    runner = Runner(outcome)

    events = train(runner)

    assert warned(events) == [(f"no preview after step 2: {reason}", LATER)]
    last = max(n for n, event in enumerate(events) if isinstance(event, PhaseFinished))
    assert made(events[:last]) == []
    assert made(events) == [2, 4, 5]


@pytest.mark.usefixtures("pair", "simpletuner")
def test_without_memory_for_it_nothing_is_sampled_beside_the_trainer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(MEMORY, "available", 1e9)

    events = train(Runner(refuse))

    [(message, hint), (later, again)] = warned(events)
    assert message.startswith("no previews beside the training: they take ")
    assert message.endswith("and 1 are free")
    assert (hint, later) == (
        LATER,
        f"no preview after step 2: {'memory does not suffice for'} denoising",
    )
    assert (
        again == f"the same command tries it again; all that it said: {RUN.path}/logs/previews.log"
    )
    assert (made(events), states()) == ([4, 5], ("done", "done"))
    assert made(train(Runner())) == [2]


@pytest.mark.usefixtures("pair")
@pytest.mark.parametrize(
    ("behaviour", "error"),
    [("hang", KeyboardInterrupt), ("unknown after checkpoints", TrainingFailed)],
)
def test_a_preview_ends_with_the_training_and_is_made_by_the_next_start(
    simpletuner: FakeSimpleTuner, behaviour: str, error: type[BaseException]
) -> None:
    simpletuner.behave(fast=behaviour)
    runner = Runner()
    runner.outcomes.append(runner.hang)

    def interrupt(event: Event) -> None:
        if isinstance(event, MemoryUsed) and event.phase is FAST:
            assert runner.hangs.wait(30)
            raise KeyboardInterrupt

    with pytest.raises(error):
        train(runner, interrupt if behaviour == "hang" else lambda _: None)

    assert find_processes("a-sampling") == simpletuner.processes() == []
    simpletuner.behave()
    assert made(train(Runner())) == [2, 4, 5]
    assert not (RUN.previews / ".half.png").exists()


@needs_half
@pytest.mark.usefixtures("pair")
@pytest.mark.parametrize(
    ("phase", "step", "slow", "fast", "copied"),
    [
        (FAST, 1, "done", "training", []),
        (FAST, 2, "done", "training", ["step-0002-fast"]),
        (FAST, 3, "done", "training", ["step-0003-fast"]),  # the first after a multiple
        (FAST, 5, "done", "training", []),  # the finished pair's
        (FAST, 2, "training", "training", ["step-0002-fast", "step-0002-slow"]),
        (SLOW, 2, "training", "training", []),
        (SLOW, 2, "training", "done", ["step-0002-slow"]),  # the fast one was trained first
    ],
)
def test_checkpoints_of_the_second_phase_are_kept(
    phase: Phase, step: int, slow: str, fast: str, copied: list[str]
) -> None:
    for number in range(1, 5):
        checkpoint = RUN.output(FAST) / f"checkpoint-{number}"
        checkpoint.mkdir(parents=True, exist_ok=True)
        (checkpoint / RUN.lora(SLOW).name).write_bytes(RUN.lora(SLOW).read_bytes())
    (RUN.output(SLOW) / "checkpoint-5" / RUN.lora(SLOW).name).write_bytes(b"newest")
    manifest = load_manifest(RUN)
    for one, state in ((SLOW, slow), (FAST, fast)):
        manifest = manifest.with_phase(one, state=PhaseState(state))
    plan, runner = make_plan(preview_every=2), Runner()
    setup = TrainerSetup(Path("x"), runner, None, None, is_offline=True)  # type: ignore[arg-type]
    record = RunRecord(RUN, manifest)
    previews = Previews(plan, setup, record, tell=lambda _: None, on_event=lambda _: None)
    previews._waits = True  # nothing is sampled

    previews.take(phase, step)
    if step == 2:
        previews.take(phase, 3)  # it has its preview

    assert sorted(path.stem for path in RUN.previews.glob("*")) == copied
    if "step-0002-slow" in copied and phase is FAST:
        assert (RUN.previews / "step-0002-slow.safetensors").read_bytes() == b"newest"


@needs_whole
@pytest.mark.usefixtures("pair", "simpletuner")
def test_previews_are_no_other_experiment_and_are_resumed_and_discarded_with_the_run() -> None:
    asked = {"preview_every": 4, "preview_prompts": ("a fox",)}

    assert made(train(Runner(), **asked)) == [5]  # of checkpoints that are gone there are none
    resumed = plan_training(TrainRequest(resume=RUN.path))
    assert resumed.previews == PreviewRecord(every=4, prompts=("a fox",))
    assert resumed.preview_prompts == ("a fox",)
    assert made(train(Runner(), preview_every=3)) == [5]  # of other prompts
    assert made(train(Runner(), restart=True)) == [2, 4, 5]
    document = json.loads(RUN.manifest.read_text())
    document["settings"]["sample_every"] = 20  # of a run that SimpleTuner sampled with one LoRA
    RUN.manifest.write_text(json.dumps(document))
    assert made(train(Runner())) == []


@pytest.mark.usefixtures("pair")
def test_what_cannot_be_previewed_is_refused_with_all_the_rest() -> None:
    with pytest.raises(GlanceError) as caught:
        make_plan(preview_every=0, preview_prompts=(" ",), rank=0)

    messages = [problem.message for problem in caught.value.problems]
    assert "--preview-every 0: it must be at least 1" in messages
    assert any(message.startswith("--preview-prompt") for message in messages)
    assert any(message.startswith("--rank 0") for message in messages)
    with pytest.raises(SettingsError, match="--preview-prompt: nothing is sampled"):
        make_plan(preview_prompts=("a fox",))
