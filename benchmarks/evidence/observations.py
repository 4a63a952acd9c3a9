"""What is seen in one picture for each caption: kept as a file, so that nothing is made twice."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.evidence.pairs import Wording
from glance.core.files import replacing
from glance.evaluation.comparison import Values
from glance.evaluation.small_world.check import read_picture as read
from glance.evaluation.small_world.world import (
    ATTRIBUTES,
    Scene,
    describe,
    describe_loosely,
    held_out_scenes,
    read_caption,
)

if TYPE_CHECKING:
    from benchmarks.evidence.sampling import Pictures

CAPTIONS = 200
_SEED = 5


@dataclass(frozen=True, slots=True)
class Observations:
    """For each caption: the facts its picture shows, and how far it is from the reference."""

    facts: Sequence[dict[str, str]]
    distance: Sequence[float]  # mean absolute difference, 8-bit levels

    def met(self, captions: Sequence[str]) -> Values:
        """Return 1 where the picture shows everything that its caption names, else 0; (1, n)."""
        return _row(
            read_caption(caption).items() <= facts.items()
            for caption, facts in zip(captions, self.facts, strict=True)
        )

    def readable(self) -> Values:
        """Return 1 where every attribute can be read, named or not: one whole landscape; (1, n)."""
        return _row(len(facts) == len(ATTRIBUTES) for facts in self.facts)

    def pull(self, captions: Sequence[str], trained_on: str) -> Values:
        """Return the share of unnamed attributes that are drawn as the training sample's; (1, n).

        What a LoRA adds to it over the base is its sample leaking into other pictures.
        """
        sample = read_caption(trained_on)
        shares = []
        for caption, facts in zip(captions, self.facts, strict=True):
            free = [name for name in sample if name not in read_caption(caption)]
            same = [facts.get(name) == sample[name] for name in free]
            shares.append(float(np.mean(same)) if same else np.nan)
        return np.array([shares])

    def distances(self) -> Values:
        """Return the distances; (1, n)."""
        return np.array([self.distance], dtype=np.float64)


def captions_of(wording: Wording) -> list[str]:
    """Return a caption for each of CAPTIONS scenes whose combination nobody was trained on.

    Loose ones name some attributes, at least one, full ones all.
    """
    random = np.random.default_rng(_SEED)
    scenes = held_out_scenes(CAPTIONS, seed=_SEED)
    if wording is Wording.FULL:
        return [describe(scene) for scene in scenes]
    return [loose_caption(scene, random) for scene in scenes]


def loose_caption(scene: Scene, random: np.random.Generator) -> str:
    """Return a caption that names at least one attribute: of none every picture would do."""
    while not read_caption(caption := describe_loosely(scene, random)):
        pass
    return caption


def observe(
    path: Path, make: Callable[[], "Pictures"], reference: Callable[[], "Pictures"]
) -> Observations:
    """Return what `path` holds, else make the pictures, read them and keep what was seen."""
    if not path.exists():
        pictures = make()
        away = np.abs(pictures.astype(np.float32) - reference()).mean(axis=(1, 2, 3))
        seen = {
            "facts": [read(picture) for picture in pictures],
            "distance": [round(float(value), 4) for value in away],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(seen), encoding="utf-8")
    kept = json.loads(path.read_text(encoding="utf-8"))
    return Observations(kept["facts"], kept["distance"])


def _row(values: Iterable[float]) -> Values:
    return np.array([list(values)], dtype=np.float64)
