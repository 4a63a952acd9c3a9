"""What happens when the device's memory does not suffice: said in words, with a remedy."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

from glance.core.errors import InferenceFailed

# CUDA's error has a class of its own; the CPU's allocator and MPS say it in a RuntimeError.
_WORDS: Final = ("not enough memory", "can't allocate memory", "out of memory")


@contextmanager
def explaining_lack_of_memory(doing: str) -> Iterator[None]:
    """Turn torch's out-of-memory errors into InferenceFailed that says what was being done."""
    try:
        yield
    except RuntimeError as exc:
        if not is_lack_of_memory(exc):
            raise
        raise InferenceFailed(
            f"memory does not suffice for {doing}",
            hint="use --quantize 8bit, --memory group (on a GPU), or a smaller --width and "
            "--height, and close other programs that use the device",
        ) from exc


def is_lack_of_memory(exc: RuntimeError) -> bool:
    """Whether torch ran out of memory, on whichever device."""
    return isinstance(exc, torch.OutOfMemoryError) or any(word in str(exc) for word in _WORDS)
