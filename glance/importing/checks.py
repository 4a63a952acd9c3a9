"""Checks that every import makes: their refusals are reported together."""

from collections.abc import Callable

from glance.errors import InputError, RunError
from glance.run import RunFolder


class Checks:
    """Runs checks one by one and keeps what they refuse."""

    def __init__(self) -> None:
        """Begin with nothing refused."""
        self._refusals: list[InputError] = []

    def make[T](self, make: Callable[[], T]) -> T | None:
        """Return what `make` returns; None, and its refusal kept, when it raises InputError."""
        try:
            return make()
        except InputError as exc:
            self._refusals.append(exc)
            return None

    def require(self) -> None:
        """Raise the one refusal as it is, or all of them as one InputError; nothing if none."""
        if len(self._refusals) == 1:
            raise self._refusals[0]
        if self._refusals:
            raise InputError(item for refusal in self._refusals for item in refusal.problems)


def require_free(run: RunFolder) -> None:
    """Raise RunError when anything is where the run shall be: nothing is overwritten."""
    if run.path.is_dir() and not any(run.path.iterdir()):
        return
    if run.path.exists():
        what = "is a run already" if run.manifest.exists() else "is there already"
        raise RunError(f"{run.path} {what}: nothing is overwritten", hint="give another --run")
