"""What happens when the device's memory does not suffice: said in words, with a remedy."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from glance.errors import InferenceFailed


@contextmanager
def explaining_lack_of_memory(doing: str) -> Iterator[None]:
    """Turn torch's out-of-memory error into InferenceFailed that says what was being done."""
    try:
        yield
    except torch.OutOfMemoryError as exc:
        raise InferenceFailed(
            f"memory does not suffice for {doing}",
            hint="close other programs that use the device, or use a smaller --width and --height",
        ) from exc
