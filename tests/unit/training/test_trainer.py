"""One start of the trainer: how it fails, what is sealed, what its LoRA is recorded as."""

import json
import random
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from fakes.checkpoints import OUTPUT, make_checkpoint
from fakes.runs import (
    FAST,
    RUN,
    SLOW,
    Train,
    Trained,
    fail,
    make_plan,
    needs_half,
    needs_whole,
    states,
)
from fakes.trainer import FakeSimpleTuner

from glance.core.errors import SetupError
from glance.core.events import CheckpointSaved, Event, PhaseSkipped, StepDone
from glance.core.files import state_folder
from glance.core.phase import Phase
from glance.models.lora.file import hash_file, read_header, read_lora, rewrite_metadata
from glance.runs.checkpoints import Resumption, Sealer, choose_checkpoint
from glance.runs.folder import RunFolder
from glance.runs.losses import LossLog
from glance.runs.manifest import LoraRecord, PhaseState, load_manifest
from glance.training.execute import Stopping, run_training
from glance.training.trainer import CheckpointSealed, Monitor


@pytest.mark.parametrize(
    ("behaviour", "code", "cause", "remedy"),
    [
        ("out of memory", 1, ": the accelerator ran out of memory", "--resolution"),
        ("killed", 137, ": it was killed", "close other programs"),
        ("unknown", 1, "", ""),
        ("mute failure", 3, "", ""),
    ],
)
def test_a_failure_says_phase_cause_and_remedy(
    pair: Path, simpletuner: FakeSimpleTuner, behaviour: str, code: int, cause: str, remedy: str
) -> None:
    simpletuner.behave(slow=behaviour)

    error = fail()

    (problem,) = error.problems
    assert problem.message.startswith(f"the slow phase failed (SimpleTuner returned {code}){cause}")
    assert remedy in (problem.hint or "")
    assert bool(problem.hint) is bool(cause)
    assert (error.exit_code, error.returncode, error.log) == (5, code, RUN.log(SLOW))
    assert list(error.tail[-1:]) == RUN.log(SLOW).read_text().splitlines()[-1:]
    assert states() == ("failed", "pending")
    assert load_manifest(RUN).phases[SLOW].attempts[-1].returncode == code


@pytest.mark.usefixtures("pair")
def test_a_return_code_of_0_is_not_believed(simpletuner: FakeSimpleTuner) -> None:
    for behaviour, fault, tail in (
        ("wrong rank", "has rank 5, not 4 (and 3 more)", ("Training complete",)),
        ("mute", "LoRA not found: ", ()),  # what the start before has left does not pass for its
        ("zero", "every lora_B is zero: nothing was learnt", ("Training complete",)),
    ):
        shutil.rmtree(RUN.output(SLOW) / "checkpoint-5", ignore_errors=True)  # it would be taken
        simpletuner.behave(slow=behaviour)

        error = fail()

        message = "the slow phase left no sound LoRA, though SimpleTuner returned 0: "
        assert str(error).startswith(message)
        assert fault in str(error)
        assert error.problems[0].hint
        assert error.tail[-1:] == tail
        assert states() == ("failed", "pending")


@pytest.mark.usefixtures("pair")
def test_a_failure_is_told_even_if_it_cannot_be_recorded(simpletuner: FakeSimpleTuner) -> None:
    simpletuner.behave(slow="broken manifest")

    assert "the disk is full" in str(fail())


@pytest.mark.parametrize("run", ["cat.txt/run", "/proc/run", "a" * 300])
def test_a_run_folder_that_cannot_be_made_is_refused(train: Train, run: str) -> None:
    with pytest.raises(SetupError, match=r"cannot write|there are 0\.0 free"):
        train(run=Path(run))


@needs_half
def test_an_unwritable_log_is_refused(train: Train) -> None:
    shutil.rmtree(RUN.path / "logs")
    (RUN.path / "logs").touch()

    with pytest.raises(SetupError, match="cannot write runs/cat/logs"):
        train()

    assert states() == ("done", "stopped")


def said(key: str) -> list[str]:
    return [read_lora(RUN.lora(phase)).metadata.get(key, "") for phase in Phase]


def recorded(phase: Phase) -> LoraRecord:
    record = load_manifest(RUN).phases[phase].lora
    assert record is not None
    return record


@needs_half
def test_a_pair_gets_its_id_with_its_second_lora(train: Train) -> None:
    half = read_lora(RUN.lora(SLOW)).metadata
    assert load_manifest(RUN).pair_id is None
    assert "glance.pair_id" not in half
    assert half["modelspec.title"] == "cat (slow)"

    train()

    manifest = load_manifest(RUN)
    assert said("glance.pair_id") == [manifest.pair_id] * 2
    assert said("ss_output_name") == [f"cat-{str(manifest.pair_id)[:8]}-{p}" for p in Phase]
    assert [recorded(phase).sha256 for phase in Phase] == [hash_file(RUN.lora(p)) for p in Phase]


@needs_half
def test_an_older_glances_run_becomes_one_pair(train: Train, simpletuner: FakeSimpleTuner) -> None:
    header = read_header(RUN.lora(SLOW))
    rewrite_metadata(header, {**header.metadata, "glance.pair_id": "0" * 16}, RUN.lora(SLOW))
    changes = {"sha256": hash_file(RUN.lora(SLOW)), "data_sha256": None}
    older = recorded(SLOW).model_copy(update=changes)
    load_manifest(RUN).with_phase(SLOW, lora=older).save(RUN)

    train()

    assert simpletuner.phases == ["fast"]
    assert said("glance.pair_id") == [load_manifest(RUN).pair_id] * 2
    assert "0" * 16 not in said("modelspec.description")[0]


@needs_whole
def test_a_pair_that_an_older_glance_trained_keeps_its_id(train: Train) -> None:
    manifest = load_manifest(RUN)
    for phase in Phase:
        older = recorded(phase).model_copy(update={"data_sha256": None})
        manifest = manifest.with_phase(phase, lora=older)
    manifest.save(RUN)
    before = load_manifest(RUN).pair_id

    assert {type(event) for event in train()} == {PhaseSkipped}

    after = load_manifest(RUN).pair_id
    assert before == after == json.loads(RUN.manifest.read_text())["pair_id"]


@needs_whole
def test_equal_trainings_are_one_pair_and_other_tensors_are_another(
    train: Train, simpletuner: FakeSimpleTuner, trained: Trained
) -> None:
    before = load_manifest(RUN).pair_id
    simpletuner.behave(fast="other tensors")
    train(restart=True, phases=(FAST,))
    after = load_manifest(RUN).pair_id
    assert after != before
    assert said("glance.pair_id") == [after, after]
    assert said("modelspec.title")[0] == f"cat-{str(after)[:8]} (slow)"
    simpletuner.behave()

    train(restart=True)

    assert load_manifest(RUN).pair_id == before
    for phase in Phase:
        whole = RunFolder(trained.whole)
        assert RUN.lora(phase).read_bytes() == whole.lora(phase).read_bytes()


@needs_whole
@pytest.mark.parametrize("last", Phase)
def test_a_crash_between_the_headers_and_their_record_loses_nothing(
    train: Train, simpletuner: FakeSimpleTuner, last: Phase
) -> None:
    before = load_manifest(RUN)
    (other,) = (phase for phase in Phase if phase is not last)
    # without the id it had another header
    older = recorded(other).model_copy(update={"sha256": "0" * 64})
    crashed = before.with_phase(other, lora=older)
    crashed.with_phase(last, state=PhaseState.TRAINING, lora=None).save(RUN)

    train()

    assert simpletuner.phases == []
    after = load_manifest(RUN)
    assert after.pair_id == before.pair_id
    assert [recorded(phase) for phase in Phase] == [before.phases[phase].lora for phase in Phase]


@needs_half
def test_a_pair_whose_other_file_has_gone_meanwhile_is_recorded_all_the_same(
    train: Train, simpletuner: FakeSimpleTuner
) -> None:
    def lose_the_slow_one(event: Event) -> None:
        if isinstance(event, StepDone):
            RUN.lora(SLOW).unlink(missing_ok=True)

    run_training(make_plan(phases=(FAST,)), lose_the_slow_one)

    assert states() == ("done", "done")
    train()
    assert simpletuner.phases == ["fast"]  # the other is that of its last checkpoint
    assert said("glance.pair_id") == [load_manifest(RUN).pair_id] * 2


@pytest.fixture
def sealer() -> Sealer:
    return Sealer(state_folder())


def observe(sealer: Sealer, told: list[Event]) -> Monitor:
    losses = LossLog(RUN.losses(SLOW), start=1)
    return Monitor(RUN, SLOW, device=0, timesteps=5, losses=losses, sealer=sealer, sink=told.append)


def resume(sealer: Sealer) -> Resumption:
    return choose_checkpoint(RUN, SLOW, sealer, is_ours=True, trust=False)


def test_a_checkpoint_survives_an_end_at_any_moment_after_it_is_written(sealer: Sealer) -> None:
    """The trainer is gone before its event is sent, while it is heard, or while it is sealed."""
    rng = random.Random(20261129)
    unheard, repetitions = 0, 200
    for _ in range(repetitions):
        shutil.rmtree(OUTPUT, ignore_errors=True)
        told: list[Event] = []
        monitor = observe(sealer, told)

        def tell(monitor: Monitor, delay: float) -> None:
            time.sleep(delay)
            monitor.on_event(CheckpointSaved(SLOW, f"{OUTPUT}/checkpoint-12"))

        with suppress(KeyboardInterrupt), monitor.watching(list):
            make_checkpoint(12)
            telling = threading.Thread(target=tell, args=(monitor, rng.uniform(0, 0.002)))
            telling.start()
            time.sleep(rng.uniform(0, 0.002))
            raise KeyboardInterrupt
        telling.join()

        assert resume(sealer) == Resumption(12, ())
        unheard += not any(isinstance(event, CheckpointSealed) for event in told)
    assert 0 < unheard < repetitions, "both ways were tried"


def test_a_checkpoint_that_is_told_too_late_makes_no_noise(
    sealer: Sealer, capsys: pytest.CaptureFixture[str]
) -> None:
    monitor = observe(sealer, [])
    with monitor.watching(list):
        make_checkpoint(12)

    monitor.on_event(CheckpointSaved(SLOW, f"{OUTPUT}/checkpoint-12"))

    assert resume(sealer) == Resumption(12, ())
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["checkpoint-12-rolling", "checkpoint-12-tmp", "gone"])
def test_what_is_no_checkpoint_is_not_sealed(name: str, sealer: Sealer) -> None:
    told: list[Event] = []
    monitor = observe(sealer, told)
    with monitor.watching(list):
        if name != "gone":
            make_checkpoint(12).rename(OUTPUT / name)
        monitor.on_event(CheckpointSaved(SLOW, f"{OUTPUT}/{name}"))

    assert not any(isinstance(event, CheckpointSealed) for event in told)
    assert not list(Path(OUTPUT).glob("*/glance.seal"))


def test_an_earlier_checkpoint_is_not_the_one_that_was_asked_for() -> None:
    stopping = Stopping(RUN, seconds=60)
    stopping.ask({SLOW: 25})

    stopping.note_saved(SLOW, 24)
    waits = stopping.seconds_left()
    stopping.note_saved(SLOW, 25)

    assert waits
    assert stopping.seconds_left() == 0
