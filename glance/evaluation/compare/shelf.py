"""What stands between a comparison and the cache: no cache, or one that fails, stops nothing."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from glance.core.errors import SetupError
from glance.core.events import EventSink, Warned
from glance.evaluation.compare.cache import Cache, Kept, Latents

if TYPE_CHECKING:
    from PIL.Image import Image


class Shelf:
    """A cache, if there is one; the first time that it cannot be written, it says so."""

    def __init__(self, cache: Cache | None, on_event: EventSink) -> None:
        """Take the cache; None: nothing is found and nothing is kept."""
        self._cache = cache
        self._on_event = on_event
        self._is_writable = cache is not None
        self._held: dict[str, Latents] = {}  # of what could not be kept in the cache

    def find(self, key: str) -> "Image | None":
        """Return a picture that was painted before."""
        return None if self._cache is None else self._cache.find(key)

    def read_latents(self, key: str) -> Latents:
        """Return the latents of a picture that was found or kept; raises SetupError."""
        found = self._held.get(key)
        if found is None and self._cache is not None:
            found = self._cache.find_latents(key)
        if found is None:
            raise SetupError(
                "somebody else has emptied the cache of compared pictures meanwhile",
                hint="run the same command again",
            )
        return found

    def find_figures(self, key: str, reference: str) -> dict[str, float]:
        """Return what was measured before."""
        return {} if self._cache is None else self._cache.find_figures(key, reference)

    def keep(self, key: str, kept: Kept) -> None:
        """Keep a picture for the next time."""
        with self._writing() as cache:
            if cache is not None:
                cache.keep(key, kept)
                return
        self._held[key] = kept.latents

    def keep_figures(self, key: str, reference: str, figures: Mapping[str, float]) -> None:
        """Keep figures for the next time."""
        with self._writing() as cache:
            if cache is not None:
                cache.keep_figures(key, reference, figures)

    def trim(self) -> None:
        """Let go of what was not used for long."""
        with self._writing() as cache:
            if cache is not None:
                cache.trim()

    @contextmanager
    def _writing(self) -> Iterator[Cache | None]:
        try:
            yield self._cache if self._is_writable else None
        except BrokenPipeError:  # not the folder: whoever read our output has left
            raise
        except OSError as exc:
            self._is_writable = False
            self._on_event(
                Warned(
                    f"pictures cannot be kept for the next time: {exc.strerror or exc} at "
                    f"{exc.filename or 'the cache'}",
                    "set XDG_CACHE_HOME to a folder that you may write to and that has space left",
                )
            )
