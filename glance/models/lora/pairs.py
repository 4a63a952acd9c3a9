"""The keys of anybody's LoRA file: which two belong together, to which layer, at which scale.

Works on names and shapes alone, so that it serves numpy's tensors and torch's.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from glance.core.errors import LoraError, Problem
from glance.models.lora.file import ADAPTER_METADATA, PREFIX

_PREFIXES: Final = (
    "base_model.model.",  # PEFT, before any of the others
    PREFIX,
    "_orig_mod.",  # torch.compile
    "pipe.dit.",  # DiffSynth
    "model.diffusion_model.",
    "diffusion_model.",  # ComfyUI
    "lora_unet_",  # kohya
    "lora_transformer_",  # OneTrainer
)
# PEFT's own names have the adapter's in them: lora_A.default.weight
_DOWN: Final = re.compile(r"(.+)\.(?:lora_A(?:\.[\w-]+)?|lora_down|lora\.down)\.weight")
_UP: Final = re.compile(r"(.+)\.(?:lora_B(?:\.[\w-]+)?|lora_up|lora\.up)\.weight")
_ALPHA: Final = re.compile(r"(.+)\.(?:lora_)?alpha")
_TEXT: Final = re.compile(
    r"(base_model\.model\.)?(lora_te\d?_|text_encoder|clip_[lg]\.|t5(xxl)?\.|bundle_emb)"
)
_OTHER_KINDS: Final[Mapping[str, re.Pattern[str]]] = {
    "LoHa": re.compile(r"\.hada_"),
    "LoKr": re.compile(r"\.lokr_"),
    "OFT": re.compile(r"\.b?oft_"),
    "DoRA": re.compile(r"\.(dora_scale|lora_magnitude_vector)\b"),
    "differences of whole weights": re.compile(r"\.(diff|diff_b|set_weight|w_norm|b_norm)$"),
}
_WITHOUT_TEXT: Final = "glance import --slow-lora A --fast-lora B --drop-text-encoder"
_NAMED: Final = 20
_CHANGES_BASE: Final = ("pissa", "olora", "corda", "lora_ga", "loftq")
"""How PEFT begins with other weights of the base model than its own (peft.tuners.lora.layer)."""


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
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    is_rank_stabilised: bool = False

    def factor(self, layer: str, rank: int) -> float:
        """Return what B A is multiplied by: alpha / rank, with rsLoRA alpha / sqrt(rank).

        As in peft: `update_layer` in tuners/lora/layer.py.
        """
        alpha = match_pattern(self.alpha_pattern, layer, self.alpha)
        return alpha / (math.sqrt(rank) if self.is_rank_stabilised else rank)


def sort_keys(keys: Iterable[str]) -> SortedKeys:
    """Find the pairs among a file's keys, in their order, in every common spelling."""
    downs: dict[str, str] = {}
    ups: dict[str, str] = {}
    alphas: dict[str, str] = {}
    rest: list[str] = []
    twice: list[str] = []
    for key in keys:
        if _TEXT.match(key) or any(kind.search(key) for kind in _OTHER_KINDS.values()):
            rest.append(key)
        elif match := _DOWN.fullmatch(key):
            twice += [_layer(match[1])] if match[1] in downs else []
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
    problems += _repeated_problems(pairs, twice)
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
    except (ValueError, AttributeError, RecursionError) as exc:
        raise LoraError(f"its {ADAPTER_METADATA} cannot be read: {exc}") from exc
    return parse_scaling(config, f"its {ADAPTER_METADATA}")


def parse_scaling(
    config: Mapping[str, Any], what: str, *, remedy: str | None = None
) -> Scaling | None:
    """Return what PEFT's LoraConfig says of alpha, if anything; `what` is it, for a message.

    Raises LoraError for a config that cannot be understood, and for what is no plain LoRA.
    """
    try:
        scaling = _scaling(config)
    except (ValueError, TypeError, AttributeError, OverflowError, re.error) as exc:
        raise LoraError(f"{what} cannot be read: {exc}", hint=remedy) from exc
    if config.get("use_dora"):
        raise LoraError("it is a DoRA: glance loads only LoRA pairs")
    start = str(config.get("init_lora_weights"))
    if start.startswith(_CHANGES_BASE):
        raise LoraError(
            f"{what} says init_lora_weights {start}: it goes with a base model whose weights were "
            "changed when its training began, and with no other",
            hint="save it again with PEFT's path_initial_model_for_weight_conversion",
        )
    return scaling


def match_pattern[T](patterns: Mapping[str, T], layer: str, usual: T) -> T:
    """Return the value of the first pattern that fits a layer; `get_pattern_key` of peft.utils."""
    fitting = (own for at, own in patterns.items() if re.match(rf"(.*\.)?({at})$", layer))
    return next(fitting, usual)


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
    pattern = {key: _number(alpha) for key, alpha in (config.get("alpha_pattern") or {}).items()}
    for key in pattern:
        re.compile(key)
    return Scaling(_number(config["lora_alpha"]), pattern, bool(config.get("use_rslora")))


def _number(value: Any) -> float:
    number = math.nan if isinstance(value, bool) else float(value)
    if not math.isfinite(number):
        raise ValueError(f"alpha {value} is no number")
    return number


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
                f"`{_WITHOUT_TEXT}` makes a run of the pair without them",
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


def _repeated_problems(pairs: Iterable[PairKeys], twice: Sequence[str]) -> list[Problem]:
    """Name the layers that two spellings, or two adapters in one file, change."""
    counts = Counter(pair.layer for pair in pairs)
    repeated = dict.fromkeys([*(at for at, count in counts.items() if count > 1), *twice])
    return [Problem(f"it has more than one pair for {name_some(repeated)}")] if repeated else []


def is_text_key(key: str) -> bool:
    """Whether it is a part of a text encoder's LoRA."""
    return _TEXT.match(key) is not None
