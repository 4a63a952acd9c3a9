"""Which pairs are distilled: one frozen description each, and the questions they answer."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from itertools import product
from types import MappingProxyType
from typing import Any, Final

BASES: Final = ("own-2", "own-4", "own-5", "own-6", "own-10", "optimal-4", "seed-10")
"""Lists that the base model is sampled along by itself."""
BESIDE: Final = ("own-5", "own-10")
"""Lists of the base that every pair is compared with besides its own."""


class Layers(StrEnum):
    """Which linear layers of the transformer's blocks the LoRAs cover."""

    ATTENTION = "attention"
    UNMODULATED = "attention and feed-forward"
    BLOCKS = "every one, modulation included"


class Decay(StrEnum):
    """What the learning rate does after it has risen over the first ten steps."""

    COSINE = "cosine to 0"
    LINEAR = "linear to 0"
    CONSTANT = "none"
    RESTARTS = "SimpleTuner's `cosine`, which swings on"


class Weighting(StrEnum):
    """How much the squared errors of a phase's steps count."""

    EVEN = "even"
    LANDING = "step length squared: the error of the state reached"


class Trainer(StrEnum):
    """Who trains."""

    HERE = "in this process"
    SIMPLETUNER = "SimpleTuner, by `glance distill`"
    """With the captions of its own, and noises of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one pair is made; the defaults are the centre that the questions vary."""

    schedule: str = "own-4"
    loose: int = 64
    """Captions of training scenes that name some attributes."""
    full: int = 0
    """Captions that name all."""
    noises: int = 2
    """Paths a caption."""
    steps: int = 240
    """Optimizer steps a phase."""
    batch_size: int = 4
    rank: int = 16
    alpha_per_rank: float = 1
    layers: Layers = Layers.BLOCKS
    learning_rate: float = 1e-3
    decay: Decay = Decay.COSINE
    slow_guidance: float = 3.5
    """Of the slow phase, in training and in sampling; the teacher has 3.5 throughout."""
    fast_guidance: float = 3.5
    lands: bool = False
    """Whether the fast phase begins where the slow LoRA lands, not from the teacher's state."""
    rounds: int = 1
    """From the second on a phase learns from the states that its own steps come to."""
    weighting: Weighting = Weighting.EVEN
    strength: float = 1
    """Of both LoRAs, in sampling."""
    style: float = 0
    """Strength of a style's LoRA beneath the pair, in sampling; the base has it too."""
    seed: int = 1
    draw: int = 77
    """The seed of the captions, and of the noises that belong to them."""
    trainer: Trainer = Trainer.HERE

    @property
    def name(self) -> str:
        """What differs from the centre, a file's name."""
        changes = {name: value for name, value in self.changes.items() if name != "schedule"}
        return "-".join([self.schedule, *(f"{key}={_slug(one)}" for key, one in changes.items())])

    @property
    def changes(self) -> dict[str, Any]:
        """The fields that are not the centre's."""
        values = ((field.name, getattr(self, field.name), field.default) for field in fields(self))
        return {name: value for name, value, default in values if value != default}

    @property
    def taught(self) -> "Recipe":
        """The same but for what matters in sampling alone: pairs that share it share LoRAs."""
        return replace(self, strength=1, style=0)


def _slug(value: object) -> str:
    return value.name.lower() if isinstance(value, StrEnum) else f"{value}"


CENTRE: Final = Recipe()
_GENTLE: Final = replace(CENTRE, learning_rate=5e-4)
_SHORT: Final = replace(CENTRE, noises=1, steps=60, batch_size=2, learning_rate=2e-3)


def _mixed(recipe: Recipe) -> Recipe:
    """Return the same with half of its captions full."""
    half = recipe.loose // 2
    return replace(recipe, loose=half, full=half)


_LONG: Final = replace(CENTRE, loose=48, full=16, steps=400)
"""Good on both kinds of captions."""
DEFAULT: Final = replace(_LONG, loose=96, full=32, noises=1)
"""What `glance distill` does by default, but for the decay: as many paths, of more prompts."""
_EVEN: Final = replace(CENTRE, loose=32, full=32, steps=400, decay=Decay.LINEAR)
STYLES: Final = (0, 0.5, 0.75, 1)
QUESTIONS: Final[Mapping[str, tuple[Recipe, ...]]] = MappingProxyType(
    {
        "lists": tuple(
            replace(CENTRE, schedule=name)
            for name in ("own-2", "own-4", "optimal-4", "own-6", "own-10", "seed-10")
        ),
        "captions": (
            CENTRE,
            replace(CENTRE, loose=48, full=16),
            _mixed(CENTRE),
            replace(CENTRE, loose=0, full=64),
        ),
        "prompts": tuple(replace(CENTRE, loose=count) for count in (1, 4, 16, 64)),
        "noises": (
            *(replace(CENTRE, noises=count) for count in (1, 2, 4)),
            replace(CENTRE, loose=128, noises=1),
            _LONG,
            DEFAULT,
        ),
        "layers": tuple(replace(CENTRE, layers=layers) for layers in Layers),
        "rank": tuple(replace(CENTRE, rank=rank) for rank in (4, 16, 32)),
        "alpha": tuple(replace(_GENTLE, alpha_per_rank=times) for times in (1, 4)),
        "learning rate": (
            *(replace(CENTRE, learning_rate=rate) for rate in (5e-4, 1e-3, 2e-3)),
            *(replace(CENTRE, steps=480, learning_rate=rate) for rate in (5e-4, 1e-3)),
            *(replace(_mixed(CENTRE), steps=480, learning_rate=rate) for rate in (5e-4, 1e-3)),
        ),
        "decay": (
            *(replace(CENTRE, decay=decay) for decay in Decay),
            *(replace(_LONG, decay=decay) for decay in (Decay.COSINE, Decay.LINEAR)),
        ),
        "steps": (
            *(replace(CENTRE, steps=steps) for steps in (120, 240, 480, 960)),
            replace(CENTRE, loose=48, full=16),
            _LONG,
            *(replace(_mixed(CENTRE), steps=steps) for steps in (240, 480)),
        ),
        "fast guidance": tuple(
            replace(one, fast_guidance=scale) for one in (_GENTLE, CENTRE) for scale in (1.0, 3.5)
        ),
        "landing": tuple(
            replace(one, lands=lands) for one in (CENTRE, _LONG) for lands in (False, True)
        ),
        "rounds": tuple(replace(CENTRE, rounds=rounds) for rounds in (1, 2)),
        "weighting": tuple(replace(CENTRE, weighting=weighting) for weighting in Weighting),
        "strength": tuple(replace(CENTRE, strength=scale) for scale in (0.5, 0.8, 1, 1.2)),
        "style": tuple(replace(_EVEN, style=scale) for scale in STYLES),
        "seed": (
            *(replace(_LONG, seed=seed) for seed in (1, 2, 3)),
            *(replace(_LONG, draw=draw) for draw in (78, 79)),
            *(replace(_EVEN, draw=draw) for draw in (77, 78, 79)),
        ),
        "more": (
            replace(CENTRE, steps=480),
            replace(CENTRE, steps=960),
            replace(CENTRE, noises=4, steps=480),
            replace(CENTRE, loose=256, noises=1, steps=480),
            _LONG,
            replace(_LONG, schedule="own-2"),
            replace(CENTRE, schedule="own-2"),
            replace(CENTRE, schedule="own-2", steps=480),
            replace(_EVEN, schedule="own-2"),
        ),
        "short": (
            replace(_SHORT, loose=16, batch_size=4),
            replace(_SHORT, loose=16, noises=2),
            replace(_SHORT, loose=32),
            replace(_SHORT, loose=32, batch_size=4),
            _mixed(replace(_SHORT, loose=32)),
            _SHORT,
            replace(_SHORT, batch_size=1, steps=100),
        ),
        "trainer": (
            _LONG,
            *(
                replace(one, decay=Decay.LINEAR, trainer=trainer)
                for one, trainer in product((_LONG, DEFAULT), Trainer)
                if one is _LONG or trainer is Trainer.SIMPLETUNER
            ),
            replace(DEFAULT, schedule="own-2", decay=Decay.LINEAR, trainer=Trainer.SIMPLETUNER),
        ),
    }
)
"""Each varies one thing, some around two recipes; `more` and `short` vary several."""


def all_recipes() -> Iterator[Recipe]:
    """Yield every pair that is made, once."""
    yield from dict.fromkeys(one for group in QUESTIONS.values() for one in group)
