"""The keys of anybody's LoRA file: which two belong together, to which layer, at which scale.

Works on names and shapes alone, so that it serves numpy's tensors and torch's.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from glance.errors import LoraError, Problem
from glance.lora.file import ADAPTER_METADATA, PREFIX

_PREFIXES: Final = (
    "base_model.model.",  # PEFT, before any of the others
    PREFIX,
    "model.diffusion_model.",
    "diffusion_model.",  # ComfyUI
    "lora_unet_",  # kohya
    "lora_transformer_",  # OneTrainer
)
_DOWN: Final = re.compile(r"(.+)\.(?:lora_A|lora_A\.default|lora_down|lora\.down)\.weight")
_UP: Final = re.compile(r"(.+)\.(?:lora_B|lora_B\.default|lora_up|lora\.up)\.weight")
_ALPHA: Final = re.compile(r"(.+)\.alpha")
_TEXT: Final = re.compile(r"(base_model\.model\.)?(lora_te\d?_|text_encoder)")
_OTHER_KINDS: Final[Mapping[str, re.Pattern[str]]] = {
    "LoHa": re.compile(r"\.hada_"),
    "LoKr": re.compile(r"\.lokr_"),
    "OFT": re.compile(r"\.b?oft_"),
    "DoRA": re.compile(r"\.(dora_scale|lora_magnitude_vector)\b"),
    "differences of whole weights": re.compile(r"\.(diff|diff_b|set_weight|w_norm|b_norm)$"),
}
_NAMED: Final = 20


@dataclass(frozen=True, slots=True)
class PairKeys:
    """The keys of one pair: A, (rank, in), and B, (out, rank)."""

    layer: str
    """As the file calls it, without prefix; kohya has "_" where the model has "."."""
    down: str
    up: str
    alpha: str | None


@dataclass(frozen=True, slots=True)
class SortedKeys:
    """All keys of a file: its whole pairs, and what is wrong with the rest."""

    pairs: tuple[PairKeys, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class Scaling:
    """What diffusers' adapter metadata say of alpha."""

    alpha: float
    alpha_pattern: Mapping[str, float]
    is_rank_stabilised: bool

    def factor(self, layer: str, rank: int) -> float:
        """Return what B A is multiplied by: alpha / rank, with rsLoRA alpha / sqrt(rank).

        As in peft: `get_pattern_key` in utils/other.py, `update_layer` in tuners/lora/layer.py.
        """
        alpha = next(
            (
                alpha
                for pattern, alpha in self.alpha_pattern.items()
                if re.match(rf"(.*\.)?({pattern})$", layer)
            ),
            self.alpha,
        )
        return alpha / (math.sqrt(rank) if self.is_rank_stabilised else rank)


def sort_keys(keys: Iterable[str]) -> SortedKeys:
    """Find the pairs among a file's keys, in their order, in every common spelling."""
    downs: dict[str, str] = {}
    ups: dict[str, str] = {}
    alphas: dict[str, str] = {}
    rest: list[str] = []
    for key in keys:
        if _TEXT.match(key) or any(kind.search(key) for kind in _OTHER_KINDS.values()):
            rest.append(key)
        elif match := _DOWN.fullmatch(key):
            downs[match[1]] = key
        elif match := _UP.fullmatch(key):
            ups[match[1]] = key
        elif match := _ALPHA.fullmatch(key):
            alphas[match[1]] = key
        else:
            rest.append(key)
    pairs = tuple(
        PairKeys(_layer(stem), down, ups[stem], alphas.get(stem))
        for stem, down in downs.items()
        if stem in ups
    )
    # Other kinds have alphas too, of which enough is said then.
    problems = [*_foreign_problems(rest), *_lonely_problems(downs, ups, {} if rest else alphas)]
    problems += _repeated_problems(pairs)
    if not pairs and not problems:
        problems.append(Problem("it holds no LoRA pair"))
    return SortedKeys(pairs, tuple(problems))


def pair_problem(keys: PairKeys, down: Sequence[int], up: Sequence[int]) -> Problem | None:
    """Return what is wrong with the shapes of a pair, if anything."""
    if len(down) != 2 or len(up) != 2:
        return Problem(
            f"{keys.layer} has shapes {tuple(down)} and {tuple(up)}, not of two dimensions each"
        )
    if down[0] != up[1] or not down[0]:
        return Problem(f"{keys.down} has rank {down[0]}, {keys.up} has rank {up[1]}")
    return None


def read_scaling(metadata: Mapping[str, str]) -> Scaling | None:
    """Read diffusers' adapter metadata from a header; None when it says nothing of alpha.

    Raises LoraError for metadata that cannot be understood, and for DoRA's.
    """
    text = metadata.get(ADAPTER_METADATA)
    if text is None:
        return None
    try:
        config = {key.removeprefix(PREFIX): value for key, value in json.loads(text).items()}
        scaling = _scaling(config)
    except (ValueError, TypeError, AttributeError, re.error) as exc:
        raise LoraError(f"its {ADAPTER_METADATA} cannot be read: {exc}") from exc
    if config.get("use_dora"):
        raise LoraError("it is a DoRA: glance loads only LoRA pairs")
    return scaling


def adapter_config(ranks: Mapping[str, int]) -> dict[str, Any]:
    """Return PEFT's LoraConfig, prefixed as diffusers stores it: alpha = rank, so scale 1.

    `ranks` is by layer; the rarer ones go to PEFT's patterns, regular expressions that it matches
    to the end of a name.
    """
    usual = Counter(ranks.values()).most_common(1)[0][0]
    patterns: dict[str, int] = {}
    for rank in sorted(set(ranks.values()) - {usual}):
        layers = (re.escape(layer) for layer, own in sorted(ranks.items()) if own == rank)
        # One pattern a rank: PEFT tries every pattern on every layer.
        patterns[f"^(?:{'|'.join(layers)})"] = rank
    config = {
        "r": usual,
        "lora_alpha": usual,
        "target_modules": sorted(ranks),
        "rank_pattern": patterns,
        "alpha_pattern": dict(patterns),
        "use_dora": False,
        "lora_bias": False,
    }
    return {f"{PREFIX}{key}": value for key, value in config.items()}


def name_some(names: Iterable[str]) -> str:
    """List names for a message: the first twenty, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return ", ".join(listed[:_NAMED]) + more


def _layer(stem: str) -> str:
    for prefix in _PREFIXES:
        stem = stem.removeprefix(prefix)
    return stem


def _scaling(config: Mapping[str, Any]) -> Scaling | None:
    if config.get("lora_alpha") is None:
        return None
    pattern = {key: float(alpha) for key, alpha in (config.get("alpha_pattern") or {}).items()}
    for key in pattern:
        re.compile(key)
    return Scaling(float(config["lora_alpha"]), pattern, bool(config.get("use_rslora")))


def _foreign_problems(keys: Sequence[str]) -> list[Problem]:
    """Name what glance cannot load, kind by kind."""
    problems: list[Problem] = []
    text = [key for key in keys if _TEXT.match(key)]
    others = [key for key in keys if not _TEXT.match(key)]
    if text:
        problems.append(
            Problem(
                f"{len(text)} of its keys are a text encoder's, first {text[0]}: "
                "glance loads only the transformer's",
                "save it again without them",
            )
        )
    for kind, mark in _OTHER_KINDS.items():
        if found := [key for key in others if mark.search(key)]:
            problems.append(
                Problem(
                    f"{len(found)} of its keys are {kind}, first {found[0]}: "
                    "glance loads only LoRA pairs"
                )
            )
    unknown = [key for key in others if not any(m.search(key) for m in _OTHER_KINDS.values())]
    if unknown:
        problems.append(
            Problem(f"{len(unknown)} of its keys are no half of a LoRA pair: {name_some(unknown)}")
        )
    return problems


def _lonely_problems(
    downs: Mapping[str, str], ups: Mapping[str, str], alphas: Mapping[str, str]
) -> list[Problem]:
    problems: list[Problem] = []
    for half, other, name in ((downs, ups, "lora_B (up)"), (ups, downs, "lora_A (down)")):
        if lonely := [key for stem, key in half.items() if stem not in other]:
            problems.append(Problem(f"no {name} belongs to {name_some(lonely)}"))
    if lonely := [k for stem, k in alphas.items() if stem not in downs and stem not in ups]:
        problems.append(Problem(f"no pair belongs to {name_some(lonely)}"))
    return problems


def _repeated_problems(pairs: Iterable[PairKeys]) -> list[Problem]:
    counts = Counter(pair.layer for pair in pairs)
    repeated = [layer for layer, count in counts.items() if count > 1]
    return [Problem(f"it has more than one pair for {name_some(repeated)}")] if repeated else []
