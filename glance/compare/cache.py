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
from pathlib import Path
from typing import TYPE_CHECKING, Final

from glance.files import cache_folder, replacing, write_json
from glance.pixels import DECODER_ERRORS, open_picture

if TYPE_CHECKING:
    from PIL.Image import Image

LIMIT: Final = 2 << 30  # bytes; a thousand pictures of a megapixel
_CHUNK: Final = "glance-compare"  # a PNG text chunk: what cannot be read off the pixels


@dataclass(frozen=True, slots=True)
class Kept:
    """A picture, and the seconds that its denoising and decoding took when it was painted."""

    image: "Image"
    seconds: float


@dataclass(frozen=True, slots=True)
class Cache:
    """The folder. Making the object touches nothing."""

    folder: Path

    @classmethod
    def of_user(cls) -> "Cache":
        """Return the one of this user; raises SetupError where there is no home."""
        return cls(cache_folder() / "compare")

    def find(self, key: str) -> Kept | None:
        """Return a picture; None where there is none, or a damaged one."""
        path = self._picture(key)
        try:
            with open_picture(path) as opened:
                opened.load()
                image, about = opened.copy(), json.loads(opened.info[_CHUNK])
            seconds = float(about["seconds"])
            is_sound = about["pixels"] == _hash(image) and math.isfinite(seconds)
        except DECODER_ERRORS:  # those of JSON and of its keys are among them
            return None
        image.info = {}
        _touch(path)
        return Kept(image, seconds) if is_sound else None

    def keep(self, key: str, kept: Kept) -> None:
        """Write a picture; raises OSError."""
        from PIL import PngImagePlugin

        chunks = PngImagePlugin.PngInfo()
        about = {"seconds": kept.seconds, "pixels": _hash(kept.image)}
        chunks.add_text(_CHUNK, json.dumps(about))
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

    def _figures(self, key: str, reference: str) -> Path:
        both = hashlib.sha256(f"{key} {reference}".encode()).hexdigest()
        return self.folder / "figures" / f"{both}.json"


def _hash(image: "Image") -> str:
    head = f"{image.mode} {image.size}".encode()
    return hashlib.sha256(head + image.tobytes()).hexdigest()


def _touch(path: Path) -> None:
    with suppress(OSError):  # a cache that may only be read is one too
        os.utime(path)
