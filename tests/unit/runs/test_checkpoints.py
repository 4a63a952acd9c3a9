"""Which checkpoint a training goes on from: damaged, half-written and strange ones do not pass."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.checkpoints import OUTPUT, SLOW, make_checkpoint
from fakes.runs import RUN, fail, plan_and_train
from fakes.simpletuner import LORA
from fakes.trainer import FakeSimpleTuner

from glance.core.errors import RunError, SetupError
from glance.core.events import Event, Noted
from glance.core.files import state_folder
from glance.core.phase import Phase
from glance.runs.checkpoints import (
    Resumption,
    Sealer,
    checkpoint_names,
    choose_checkpoint,
    seal_new,
)
from glance.runs.manifest import load_manifest

WHOLE_FILES = (LORA, "optimizer.bin", "random_states_0.pkl", "checkpoint_manifest.json")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def add(path: Path) -> None:
    path.with_name("another.pkl").write_bytes(b"cos\nsystem\n")


@pytest.fixture
def sealer() -> Sealer:
    return Sealer(state_folder())


def choose(sealer: Sealer, *, is_ours: bool = True, trust: bool = False) -> Resumption:
    return choose_checkpoint(RUN, SLOW, sealer, is_ours=is_ours, trust=trust)


def test_the_newest_by_number_is_taken(sealer: Sealer) -> None:
    assert choose(sealer) == Resumption(0, ())
    for step in (6, 54, 108):
        sealer.seal(make_checkpoint(step))

    assert choose(sealer) == Resumption(108, ())


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink, add])
@pytest.mark.parametrize("name", [LORA, "optimizer.bin", "training_state.json", ".guard"])
def test_a_damaged_one_is_set_aside_and_the_one_before_taken(
    damage: Callable[[Path], object], name: str, sealer: Sealer
) -> None:
    for step in (6, 12):
        sealer.seal(make_checkpoint(step))
    damage(OUTPUT / "checkpoint-12" / name)

    assert choose(sealer) == Resumption(6, ("checkpoint-12",))

    assert sorted(path.name for path in OUTPUT.iterdir()) == [
        "checkpoint-6",
        "set-aside-checkpoint-12",
    ]


def test_one_that_was_not_sealed_in_time_is_set_aside(sealer: Sealer) -> None:
    sealer.seal(make_checkpoint(6))
    make_checkpoint(12)

    assert choose(sealer) == Resumption(6, ("checkpoint-12",))
    make_checkpoint(12)
    assert choose(sealer) == Resumption(6, ("checkpoint-12",))
    assert (OUTPUT / "set-aside-checkpoint-12-0").is_dir()


@pytest.mark.parametrize(
    ("damage", "resumption"),
    [
        (None, Resumption(12, ())),
        (Path.unlink, Resumption(6, ("checkpoint-12",))),
        (cut, Resumption(6, ("checkpoint-12",))),
    ],
)
def test_what_the_trainer_wrote_and_did_not_tell_any_more_is_sealed_if_it_is_whole(
    damage: Callable[[Path], object] | None, resumption: Resumption, sealer: Sealer
) -> None:
    sealer.seal(make_checkpoint(6))
    known = checkpoint_names(RUN, SLOW)
    make_checkpoint(12)
    if damage is not None:
        damage(OUTPUT / "checkpoint-12/optimizer.bin")

    seal_new(RUN, SLOW, sealer, known=known)

    assert choose(sealer) == resumption


def test_a_checkpoint_that_simpletuner_removes_meanwhile_does_not_come_back(
    sealer: Sealer, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_checkpoint(6)
    monkeypatch.setattr(sealer, "_hash", lambda checkpoint: str(shutil.rmtree(checkpoint)))

    with pytest.raises(FileNotFoundError):
        sealer.seal(folder)

    assert not folder.exists()


def test_what_a_moved_run_loses_and_simpletuner_adds_later_does_no_harm(sealer: Sealer) -> None:
    folder = make_checkpoint(6)
    (folder / "training_state-glance.json").write_text("/old/place")
    sealer.seal(folder)
    (folder / "training_state-glance.json").unlink()
    (folder / "assets").mkdir()
    (folder / "assets/image_0.png").touch()

    assert choose(sealer) == Resumption(6, ())


def test_names_that_simpletuner_cannot_read_are_set_aside(sealer: Sealer, tmp_path: Path) -> None:
    sealer.seal(make_checkpoint(6))
    names = ("checkpoint-", "checkpoint-x", "checkpoints", "checkpoint-6-old")
    for name in (*names, "checkpoint-12-tmp"):  # it knows what that is
        (OUTPUT / name).mkdir()

    assert choose(sealer) == Resumption(6, ())
    there = {"checkpoint-12-tmp", "checkpoint-6", *(f"set-aside-{name}" for name in names)}
    assert {path.name for path in OUTPUT.iterdir()} == there
    elsewhere = (OUTPUT / "checkpoint-6").rename(tmp_path / "elsewhere")
    (OUTPUT / "checkpoint-6").symlink_to(elsewhere)
    assert choose(sealer) == Resumption(0, ())  # a link is no checkpoint


@pytest.fixture
def strange(tmp_path: Path) -> None:
    """A checkpoint that was made on another machine."""
    Sealer(tmp_path / "other machine").seal(make_checkpoint(6))


@pytest.mark.usefixtures("strange")
def test_one_from_elsewhere_is_refused_unless_it_is_trusted(sealer: Sealer) -> None:
    with pytest.raises(RunError, match="was not begun here, and checkpoint-6") as caught:
        choose(sealer, is_ours=False)

    assert "--trust" in (caught.value.problems[0].hint or "")
    assert (OUTPUT / "checkpoint-6").is_dir(), "nothing is moved"
    assert choose(sealer, is_ours=False, trust=True) == Resumption(6, ())


@pytest.mark.usefixtures("strange")
def test_one_that_says_it_began_here_is_neither_unpickled_nor_sealed(sealer: Sealer) -> None:
    seal_new(RUN, SLOW, sealer, known=checkpoint_names(RUN, SLOW))

    assert choose(sealer) == Resumption(0, ("checkpoint-6",))


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        *((cut, name) for name in WHOLE_FILES),
        *((Path.unlink, name) for name in (*WHOLE_FILES, ".guard")),
    ],
)
def test_trusted_it_must_still_be_whole(
    damage: Callable[[Path], object], name: str, sealer: Sealer
) -> None:
    for step in (6, 12):
        make_checkpoint(step)
    damage(OUTPUT / "checkpoint-12" / name)

    assert choose(sealer, is_ours=False, trust=True) == Resumption(6, ("checkpoint-12",))


@pytest.fixture
def broken_off(pair: Path, simpletuner: FakeSimpleTuner) -> None:
    """A run that failed after checkpoints 2 and 3 of its slow phase."""
    simpletuner.behave(slow="unknown after checkpoints")
    fail()
    simpletuner.behave()


@pytest.mark.usefixtures("broken_off")
def test_a_whole_run_is_refused_then_trusted(
    simpletuner: FakeSimpleTuner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "another machine")

    with pytest.raises(RunError, match="was not begun here"):
        plan_and_train()
    assert len(simpletuner.starts) == 1
    shutil.rmtree(OUTPUT / "checkpoint-3")
    make_checkpoint(3)
    plan_and_train(trust=True)

    assert [start["resumed"] for start in simpletuner.starts] == [0, 3, 0]
    assert [attempt.resumed for attempt in load_manifest(RUN).phases[SLOW].attempts] == [0, 3]


@pytest.mark.usefixtures("broken_off")
def test_what_was_set_aside_is_said_and_gone_when_the_run_is_done() -> None:
    cut(OUTPUT / "checkpoint-3" / LORA)
    (OUTPUT / "checkpoint-4-tmp").mkdir()

    events: list[Event] = plan_and_train(phases=(SLOW,))

    told = (event.message for event in events if isinstance(event, Noted))
    notes = [message for message in told if message.startswith("slow: ")]
    assert notes == [
        "slow: checkpoint-3 is damaged or half-written: set aside",
        "slow: going on after step 2",
    ]
    assert (OUTPUT / "set-aside-checkpoint-3").is_dir()
    plan_and_train(phases=(Phase.FAST,))
    assert not list(OUTPUT.glob("set-aside-*"))
    assert not list(OUTPUT.glob("*-tmp"))


def test_the_key_is_private_and_stays(tmp_path: Path) -> None:
    first = Sealer(tmp_path).mark("x")

    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert Sealer(tmp_path).mark("x") == first
    assert Sealer(tmp_path / "other").mark("x") != first


@pytest.mark.parametrize(
    ("folder", "message", "hint"),
    [
        (".", "is damaged", "move it away"),
        ("key/glance", "cannot keep a key", "set XDG_STATE_HOME"),
    ],
)
def test_an_unusable_key_is_named(folder: str, message: str, hint: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"short")

    with pytest.raises(SetupError, match=message) as caught:
        Sealer(tmp_path / folder)

    assert (caught.value.problems[0].hint or "").startswith(hint)
