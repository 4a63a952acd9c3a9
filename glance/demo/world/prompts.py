"""The package's own prompts for its small model: captions of the only world that it knows.

They ship as `small-flux-teaching.txt` and `small-flux-judging.txt` in `glance/assets/prompts`,
which a test compares with what is made here: `glance.sampling.prompts.shipped` reads those.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import cycle
from typing import Final

import numpy as np

from glance.demo.world.captions import describe, describe_loosely, read_caption
from glance.demo.world.scene import Scene, held_out_scenes, training_scene

_TAUGHT: Final = 256
_JUDGED: Final = 200  # of the 213 combinations of facts that are held out
_TEACHING_SEED: Final = 11
_JUDGING_SEED: Final = 12


def teaching_captions() -> Iterator[str]:
    """Yield captions of training scenes, three loose ones and a full one in turn, no two alike.

    docs/evidence.md says why.
    """
    random = np.random.default_rng(_TEACHING_SEED)
    scenes = (training_scene(random) for _ in range(_TAUGHT))
    ways = (describe_loosely, describe_loosely, describe_loosely, describe)
    return _described(scenes, random, ways, besides=judging_captions())


def judging_captions() -> Iterator[str]:
    """Yield captions of held-out scenes, loose and full ones in turn, no two alike."""
    random = np.random.default_rng(_JUDGING_SEED)
    scenes = held_out_scenes(_JUDGED, seed=_JUDGING_SEED)
    return _described(scenes, random, (describe_loosely, describe))


def _described(
    scenes: Iterable[Scene],
    random: np.random.Generator,
    ways: Sequence[Callable[[Scene, np.random.Generator], str]],
    *,
    besides: Iterable[str] = (),
) -> Iterator[str]:
    """Yield a caption a scene, in these ways in turn, none twice and none of `besides`."""
    said = set(besides)
    for scene, say in zip(scenes, cycle(ways), strict=False):
        caption = say(scene, random)
        while caption in said or not read_caption(caption):  # said, or of no attribute
            caption = say(scene, random)
        said.add(caption)
        yield caption
