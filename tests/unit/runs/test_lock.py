"""Two in one run folder at once: with locks, without any, and after a crash."""

import errno
import fcntl
import json
import os
from pathlib import Path
from typing import Any

import pytest

from glance.core.errors import RunError
from glance.runs.folder import RunFolder
from glance.runs.lock import locked

RUN = RunFolder(Path("runs/cat"))
WITHOUT = [errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO]


@pytest.fixture(params=WITHOUT)
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without locks."""

    def refuse(*_: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)


def refused() -> str:
    with pytest.raises(RunError) as caught, locked(RUN, print):
        pass
    (problem,) = caught.value.problems
    return f"{problem.message} / {problem.hint}"


def leave(**content: Any) -> None:
    RUN.path.mkdir(parents=True)
    RUN.lock.write_text(json.dumps({"started": "2026-11-29T05:00:00+00:00", **content}))


@pytest.mark.usefixtures("no_locks")
def test_without_locks_the_second_is_refused_all_the_same() -> None:
    with locked(RUN, print) as handle:
        assert handle is None
        told = refused()
        assert RUN.lock.exists()

    assert told.startswith(f"run runs/cat is being trained by process {os.getpid()}, since 20")
    with locked(RUN, print):
        pass
    assert not RUN.lock.exists()


@pytest.mark.usefixtures("no_locks")
@pytest.mark.parametrize(
    "left",
    [
        {"pid": 2**22 + 1},
        {"pid": os.getpid(), "began": 1.0},  # its number is another's now
        {"pid": "x"},
        {},
    ],
)
def test_without_locks_what_a_crash_left_is_no_obstacle(left: dict[str, Any]) -> None:
    leave(**left)

    with locked(RUN, print):
        assert json.loads(RUN.lock.read_text())["pid"] == os.getpid()


@pytest.mark.usefixtures("no_locks")
def test_without_locks_another_machine_cannot_be_asked() -> None:
    leave(pid=1, host="elsewhere", began=1.0)

    told = refused()

    assert told == (
        "run runs/cat is being trained by process 1 of elsewhere, since 2026-11-29T05:00:00+00:00 "
        "/ wait for it, or give another --run; if it has ended, remove runs/cat/glance.lock"
    )
