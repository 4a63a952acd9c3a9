"""Pictures that were painted before, and the figures of pairs of them, in the user's cache folder.

An entry is written whole or not at all; one that is damaged counts as none. What was used longest
ago goes when the folder grows too large.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from glance.core.files import cache_folder, replacing, write_json
from glance.core.pictures import DECODER_ERRORS, open_picture

if TYPE_CHECKING:
    from PIL.Image import Image

LIMIT: Final = 2 << 30  # bytes; a thousand pictures of a megapixel
_CHUNK: Final = "glance-compare"  # a PNG text chunk: what cannot be read off the pixels

Latents = NDArray[np.float16]
"""One picture's at sigma 0, (1, ...), as the family's pipeline has them. Their numbers are of the
order of 1, so rounding moves a distance of 0.01 by less than 0.1 %."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A picture, and the latents that it was decoded from."""

    image: "Image"
    latents: Latents


@dataclass(frozen=True, slots=True)
class Cache:
    """The folder. Making the object touches nothing."""

    folder: Path

    @classmethod
    def of_user(cls) -> "Cache":
        """Return the one of this user; raises SetupError where there is no home."""
        return cls(cache_folder() / "compare")

    def holds(self, key: str) -> bool:
        """Whether a picture with its latents is there; whether it is sound, `find` says."""
        return self._picture(key).is_file() and self._latents(key).is_file()

    def find(self, key: str) -> "Image | None":
        """Return a picture; None where it or its latents are not there, or are damaged."""
        path = self._picture(key)
        try:
            with open_picture(path) as opened:
                opened.load()
                image, about = opened.copy(), json.loads(opened.info[_CHUNK])
            latents = hashlib.sha256(self._latents(key).read_bytes()).hexdigest()
            is_sound = about == {"pixels": _hash(image), "latents": latents}
        except DECODER_ERRORS:  # those of JSON and of its keys are among them
            return None
        image.info = {}
        _touch(path)
        _touch(self._latents(key))
        return image if is_sound else None

    def find_latents(self, key: str) -> Latents | None:
        """Return the latents of a picture that `find` found; None where they are gone since."""
        try:
            found: Latents = np.load(self._latents(key), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return found

    def keep(self, key: str, kept: Kept) -> None:
        """Write a picture with its latents; raises OSError."""
        from PIL import PngImagePlugin

        encoded = BytesIO()
        np.save(encoded, kept.latents, allow_pickle=False)
        with replacing(self._latents(key)) as temporary:
            temporary.write_bytes(encoded.getvalue())
        chunks = PngImagePlugin.PngInfo()
        latents = hashlib.sha256(encoded.getvalue()).hexdigest()
        chunks.add_text(_CHUNK, json.dumps({"pixels": _hash(kept.image), "latents": latents}))
        with replacing(self._picture(key)) as temporary:
            kept.image.save(temporary, format="PNG", pnginfo=chunks)

    def find_figures(self, key: str, reference: str) -> dict[str, float]:
        """Return what is known of a picture beside another one."""
        path = self._figures(key, reference)
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            figures = {str(name): float(value) for name, value in found.items()}
        except (OSError, ValueError, AttributeError, TypeError, RecursionError):
            return {}
        _touch(path)
        return {name: value for name, value in figures.items() if math.isfinite(value)}

    def keep_figures(self, key: str, reference: str, figures: Mapping[str, float]) -> None:
        """Write figures; raises OSError."""
        write_json(self._figures(key, reference), dict(figures))

    def trim(self, limit: int = LIMIT) -> None:
        """Remove what was used longest ago until `limit` bytes are left."""
        files = []
        for path in self.folder.glob("*/*"):
            with suppress(OSError):  # somebody else trims too
                files.append((path.stat().st_mtime_ns, path.stat().st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= limit:
                return
            with suppress(OSError):
                path.unlink()
            total -= size

    def _picture(self, key: str) -> Path:
        return self.folder / "pictures" / f"{key}.png"

    def _latents(self, key: str) -> Path:
        return self.folder / "latents" / f"{key}.npy"

    def _figures(self, key: str, reference: str) -> Path:
        both = hashlib.sha256(f"{key} {reference}".encode()).hexdigest()
        return self.folder / "figures" / f"{both}.json"


def _hash(image: "Image") -> str:
    head = f"{image.mode} {image.size}".encode()
    return hashlib.sha256(head + image.tobytes()).hexdigest()


def _touch(path: Path) -> None:
    with suppress(OSError):  # a cache that may only be read is one too
        os.utime(path)
