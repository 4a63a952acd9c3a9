"""Which checkpoint a phase goes on from: whole, and made here.

A checkpoint holds pickles, and SimpleTuner gives up on a damaged one without trying the one
before. So each is sealed as soon as it is written: a keyed hash over all its files, with a key
that leaves the machine for the nodes of the user's own cluster alone. A seal that fits says both:
nothing is missing, and nobody else has put something in. glance itself unpickles nothing.
"""

import hashlib
import hmac
import json
import os
import re
import secrets
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from glance.core.errors import LoraError, RunError, SetupError, reason_of
from glance.core.phase import Phase
from glance.models.lora.file import hash_file, read_lora
from glance.runs.folder import LORA_FILE, RunFolder

KEY: Final = "key"
SEAL: Final = "glance.seal"
_GUARD: Final = ".guard"  # SimpleTuner writes it last
_MANIFEST: Final = "checkpoint_manifest.json"
_NAME: Final = re.compile(r"checkpoint-(\d+)")
_SET_ASIDE: Final = "set-aside-"


@dataclass(frozen=True, slots=True)
class Resumption:
    """Where a phase goes on: the step (0: at the beginning), and what could not be used."""

    step: int
    set_aside: tuple[str, ...]


class Sealer:
    """Seals what was made here, and tells it from everything else."""

    def __init__(self, folder: Path) -> None:
        """Take the key in `folder`; make one if there is none. Raises SetupError."""
        self._key = _load_key(folder)

    def mark(self, text: str) -> str:
        """Return a short mark that only this key makes of `text`."""
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()[:32]

    def seal(self, checkpoint: Path) -> None:
        """Seal a checkpoint that is whole; raises OSError where it has gone meanwhile.

        Half a seal does not fit: so it need not be written atomically.
        """
        seal = self._hash(checkpoint) + "\n"
        (checkpoint / SEAL).write_text(seal, encoding="utf-8")

    def is_sealed(self, checkpoint: Path) -> bool:
        """Whether the checkpoint is, byte for byte, what was sealed here."""
        try:
            seal = (checkpoint / SEAL).read_text(encoding="utf-8").strip()
            return hmac.compare_digest(seal.encode(), self._hash(checkpoint).encode())
        except (OSError, UnicodeDecodeError):
            return False

    def _hash(self, checkpoint: Path) -> str:
        files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
        lines = [
            f"{path.relative_to(checkpoint).as_posix()} {hash_file(path)}"
            for path in files
            if not _is_left_out(path.relative_to(checkpoint))
        ]
        return hmac.new(self._key, "\n".join(lines).encode(), hashlib.sha256).hexdigest()


def choose_checkpoint(
    run: RunFolder, phase: Phase, sealer: Sealer, *, is_ours: bool, trust: bool
) -> Resumption:
    """Return where the phase goes on, with everything newer set aside, not deleted.

    `is_ours` says whether the run began here; then a checkpoint without a seal is one that was
    being written when training ended. Raises RunError for a run from elsewhere, unless `trust`.
    """
    set_aside: list[str] = []
    for step, checkpoint in list_checkpoints(run, phase):
        is_sealed = sealer.is_sealed(checkpoint)
        if not is_sealed and not is_ours and not trust:
            raise RunError(
                f"run {run.path} was not begun here, and {checkpoint.name} of its {phase} phase is "
                "a pickle: whoever made it could run anything on this machine",
                hint="continue it with --trust if you know where it comes from, or train in "
                "another --run",
            )
        if is_sealed or (trust and is_whole(checkpoint)):
            return Resumption(step, tuple(set_aside))
        checkpoint.replace(_free_name(checkpoint))
        set_aside.append(checkpoint.name)
    return Resumption(0, tuple(set_aside))


def list_checkpoints(run: RunFolder, phase: Phase) -> Iterator[tuple[int, Path]]:
    """Yield step and folder of each checkpoint, the newest first.

    What SimpleTuner would stumble over, a name that it cannot read, is set aside.
    """
    found = []
    for path in run.output(phase).glob("checkpoint*"):
        step = step_of(path)
        if step is not None:
            found.append((step, path))
        elif not path.name.endswith("tmp"):
            path.replace(_free_name(path))
    yield from sorted(found, reverse=True)


def seal_new(run: RunFolder, phase: Phase, sealer: Sealer, *, known: frozenset[str]) -> None:
    """Seal what the trainer wrote and glance could not seal before the trainer was gone.

    It gives a checkpoint its name when it is whole; one that is damaged all the same is left
    without. `known` are the names from before the trainer was started. Raises OSError.
    """
    for name in checkpoint_names(run, phase) - known:
        checkpoint = run.output(phase) / name
        if not sealer.is_sealed(checkpoint) and is_whole(checkpoint):
            sealer.seal(checkpoint)


def checkpoint_names(run: RunFolder, phase: Phase) -> frozenset[str]:
    """Return the names of the phase's checkpoints."""
    found = run.output(phase).glob("checkpoint-*")
    return frozenset(path.name for path in found if step_of(path) is not None)


def is_whole(checkpoint: Path) -> bool:
    """Whether nothing of a checkpoint without a seal is missing, by all that its files tell."""
    try:
        names = json.loads((checkpoint / _MANIFEST).read_text(encoding="utf-8"))["files"]
        read_lora(checkpoint / LORA_FILE)
        return (checkpoint / _GUARD).is_file() and all(
            _is_whole_file(checkpoint / str(name)) for name in names if not _names_places(name)
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
    except (LoraError, zipfile.BadZipFile):
        return False


def remove_set_aside(run: RunFolder) -> None:
    """Remove what a finished run has no use for: damaged and half-written checkpoints."""
    for pattern in (f"{_SET_ASIDE}*", "checkpoint*tmp"):
        for path in (run.path / "output").glob(f"*/{pattern}"):
            shutil.rmtree(path, ignore_errors=True)


def step_of(path: Path) -> int | None:
    """Return the step of a checkpoint; None: it is none."""
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match and path.is_dir() and not path.is_symlink() else None


def _is_whole_file(path: Path) -> bool:
    """Whether a file is there, and a zip archive, which is what torch saves, has all its parts."""
    if path.suffix not in (".bin", ".pkl", ".pt"):
        return path.is_file()
    with zipfile.ZipFile(path) as archive:
        return archive.testzip() is None


def _names_places(name: str) -> bool:
    """Whether a file holds absolute paths: a moved run loses it, and SimpleTuner makes it anew."""
    return name.startswith("training_state-")


def _is_left_out(path: Path) -> bool:
    """Whether a file of a checkpoint may come or go after it is sealed.

    The seal itself, what a moved run loses, and the pictures that SimpleTuner adds afterwards.
    """
    return path.name == SEAL or _names_places(path.name) or path.parts[0] == "assets"


def _free_name(path: Path) -> Path:
    taken = {other.name for other in path.parent.iterdir()}
    names = (f"{_SET_ASIDE}{path.name}{suffix}" for suffix in ("", *map("-{}".format, range(9999))))
    return path.with_name(next(name for name in names if name not in taken))


def _load_key(folder: Path) -> bytes:
    path = folder / KEY
    try:
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.NamedTemporaryFile(dir=folder) as file:  # private from the start
                file.write(secrets.token_hex(32).encode())
                file.flush()
                with suppress(FileExistsError):  # somebody else was quicker: theirs it is
                    os.link(file.name, path)
        key = path.read_bytes()
    except OSError as exc:
        raise SetupError(
            f"cannot keep a key in {folder}: {reason_of(exc)}",
            hint="set XDG_STATE_HOME to a folder that you may write to",
        ) from exc
    if len(key) < 64:
        raise SetupError(
            f"the key {path} is damaged",
            hint="move it away: glance makes another, and checkpoints of before then need --trust",
        )
    return key
