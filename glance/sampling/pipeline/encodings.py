"""What prompts were encoded to, kept from one sampling to the next."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

type Encoded = Mapping[str, Any]
"""One image's prompt, and the negative one if it is used, as arguments of the pipeline."""


class Encodings:
    """Encoded prompts in system memory, for whoever comes with the same ones."""

    def __init__(self, most_bytes: int = 1 << 30) -> None:
        """Keep so many bytes at most: of FLUX in bf16 about 250 prompts."""
        self._left = most_bytes
        self._known: dict[Any, tuple[Encoded, torch.device]] = {}

    def find(self, key: Any) -> Encoded | None:
        """Return what was kept, where it was."""
        if key not in self._known:
            return None
        encoded, device = self._known[key]
        return _moved(encoded, device)

    def keep(self, key: Any, encoded: Encoded) -> None:
        """Keep it, if there is room: none goes for a new one, as those who come begin anew."""
        tensors = [*_tensors(encoded)]
        size = sum(one.nbytes for one in tensors)
        if size <= self._left and tensors:
            self._left -= size
            self._known[key] = (_moved(encoded, torch.device("cpu")), tensors[0].device)


def _tensors(encoded: Encoded) -> Iterator[torch.Tensor]:
    for value in encoded.values():  # of some families a list, an entry an image
        yield from value if isinstance(value, list) else [value]


def _moved(encoded: Encoded, device: torch.device) -> Encoded:
    return {
        name: [one.to(device) for one in value] if isinstance(value, list) else value.to(device)
        for name, value in encoded.items()
    }
