"""The keys of anybody's LoRA file: which two belong together, to which layer, how strongly.

What concerns keys alone works on names and shapes, so that it serves numpy's tensors and torch's.
Everybody who loads, converts or describes a LoRA asks `read_strength` how strongly it is applied:
its alpha by its rank, wherever its trainer has written alpha. The first that speaks is believed:
glance's own header (alpha is multiplied in), the file's alpha tensors (layer by layer), its header
as diffusers, PEFT and scripts write it, PEFT's adapter_config.json beside it, SimpleTuner's
simpletuner_config.json beside it, and kohya's ss_network_alpha.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from glance.core.errors import LoraError, Problem
from glance.core.tables import name_some
from glance.models.lora.file import (
    ADAPTER_METADATA,
    FLOATS,
    FOLDED,
    PREFIX,
    Header,
    Tensor,
    read_header,
    read_tensor,
)

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
_CHANGES_BASE: Final = ("pissa", "olora", "corda", "lora_ga", "loftq")
"""How PEFT begins with other weights of the base model than its own (peft.tuners.lora.layer)."""
ADAPTER_CONFIG: Final = "adapter_config.json"
"""What PEFT writes beside a LoRA."""
TRAINED_CONFIG: Final = "simpletuner_config.json"
"""What SimpleTuner writes beside a finished LoRA: every option that it was trained with."""
INTEGERS: Final = ("I64", "I32")  # as which some trainers write alpha
_ALPHAS: Final = ("lora_alpha", "network_alpha", "alpha")
_OPTIONS: Final = ("use_rslora", "alpha_pattern", "use_dora", "init_lora_weights")
_MOVE: Final = "move it out of that folder, or the LoRA into one of its own"
_SAME: Final = 1e-4  # factors are told apart by this much of themselves
_LONGEST: Final = 10_000_000  # bytes of a config; PEFT's have a few thousand


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
    """What a LoraConfig of PEFT says of alpha."""

    alpha: float
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    is_rank_stabilised: bool = False

    def factors(self, ranks: Mapping[str, int]) -> dict[str, float]:
        """Return what each layer's B A is multiplied by: alpha / rank, with rsLoRA by its root.

        As in peft: `update_layer` in tuners/lora/layer.py.
        """
        return {
            layer: _match_pattern(self.alpha_pattern, layer, self.alpha)
            / (math.sqrt(rank) if self.is_rank_stabilised else rank)
            if rank
            else 1.0
            for layer, rank in ranks.items()
        }


@dataclass(frozen=True, slots=True)
class Strength:
    """What each layer's B A is multiplied by, and what says so."""

    factors: Mapping[str, float]
    """By the file's own name of the layer."""
    source: str | None
    """Where alpha is said; None: nowhere, so it is taken as the rank."""
    is_own: bool = True
    """Whether the file itself says it, rather than one that lies beside it."""
    is_in_tensors: bool = False
    """Whether tools that look for alpha among the tensors alone apply it alike."""

    @property
    def factor(self) -> float | None:
        """The factor that all layers have; None: they differ."""
        values = set(self.factors.values())
        return values.pop() if len(values) == 1 else None

    def describe(self) -> str:
        """Return the factor and what says it, in words."""
        factor = "each layer's own" if self.factor is None else f"{self.factor:g}"
        return f"{factor}: {self.source or 'alpha is not recorded; taken as the rank'}"


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
    counts = Counter(pair.layer for pair in pairs)
    repeated = dict.fromkeys([*(at for at, count in counts.items() if count > 1), *twice])
    if repeated:
        problems.append(Problem(f"it has more than one pair for {name_some(repeated)}"))
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


def is_text_key(key: str) -> bool:
    """Whether it is a part of a text encoder's LoRA."""
    return _TEXT.match(key) is not None


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


def read_strength(header: Header, pairs: Sequence[PairKeys]) -> Strength:
    """Return how strongly a file's pairs are applied.

    Raises LoraError: what says it cannot be understood, is of another LoRA, or contradicts the
    file; OSError where the file cannot be read.
    """
    ranks = {pair.layer: next(iter(header.entries[pair.down].shape), 0) for pair in pairs}
    usual = dict.fromkeys(ranks, 1.0)
    if FOLDED in header.metadata:
        source = f"glance folded {header.metadata[FOLDED]} into lora_B"
        return Strength(usual, source, is_in_tensors=True)
    read = {pair.layer: read_alpha(read_tensor(header, pair.alpha)) for pair in pairs if pair.alpha}
    alphas = {layer: alpha for layer, alpha in read.items() if alpha is not None}
    is_open = not alphas or len(alphas) < len(ranks)
    said = next(_statements(header, ranks), None) if is_open else None
    factors = usual if said is None else said.factors
    if alphas:
        own = {layer: alpha / ranks[layer] for layer, alpha in alphas.items() if ranks[layer]}
        source = "alpha is in its tensors"
        return Strength({**factors, **own}, source, is_in_tensors=said is None)
    return said or Strength(usual, None)


def read_file_strength(path: Path) -> Strength:
    """Return how strongly a file's pairs are applied; raises what read_strength raises."""
    header = read_header(path)
    return read_strength(header, sort_keys(header.entries).pairs)


def read_alpha(tensor: Tensor) -> float | None:
    """Return the one number of an alpha tensor; None where it is none."""
    if math.prod(tensor.shape) != 1:
        return None
    if tensor.dtype in FLOATS:
        value = float(tensor.to_float().reshape(-1)[0])
        return value if math.isfinite(value) else None
    if tensor.dtype in INTEGERS:
        return float(int.from_bytes(tensor.data, "little", signed=True))
    return None


def find_trained_config(lora: Path) -> Path | None:
    """Return the file of options that SimpleTuner wrote beside a LoRA, or above its checkpoint."""
    places = (folder / TRAINED_CONFIG for folder in (lora.parent, lora.parent.parent))
    return next((path for path in places if path.is_file()), None)


def read_trained_options(config: Path | None) -> Mapping[str, Any]:
    """Return what such a file says, by names without dashes; empty for none, or a damaged one."""
    content = None
    with suppress(LoraError):  # it says nothing, and is nobody's fault
        content = None if config is None else _read_json(config)
    return {
        key.strip().lstrip("-").replace("-", "_"): value
        for key, value in (content or {}).items()
        if value is not None and value != ""
    }


def parse_scaling(
    config: Mapping[str, Any], what: str, *, remedy: str | None = None
) -> Scaling | None:
    """Return what PEFT's LoraConfig says of alpha, if anything; `what` is it, for a message.

    Raises LoraError for a config that cannot be understood, and for what is no plain LoRA.
    """
    scaling = None
    try:
        if config.get("lora_alpha") is not None:
            given = config.get("alpha_pattern") or {}
            pattern = {key: _number(alpha) for key, alpha in given.items() if re.compile(key)}
            is_root = bool(config.get("use_rslora"))
            scaling = Scaling(_number(config["lora_alpha"]), pattern, is_root)
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


def _layer(stem: str) -> str:
    for prefix in _PREFIXES:
        stem = stem.removeprefix(prefix)
    return stem


def _number(value: Any) -> float:
    number = math.nan if isinstance(value, bool) else float(value)
    if not math.isfinite(number):
        raise ValueError(f"alpha {value} is no number")
    return number


def _foreign_problems(keys: Sequence[str]) -> list[Problem]:
    problems: list[Problem] = []
    text = [key for key in keys if _TEXT.match(key)]
    others = [key for key in keys if not _TEXT.match(key)]
    if text:
        message = f"{len(text)} of its keys are a text encoder's, first {text[0]}: "
        remedy = f"`{_WITHOUT_TEXT}` makes a run of the pair without them"
        problems.append(Problem(f"{message}glance loads only the transformer's", remedy))
    for kind, mark in _OTHER_KINDS.items():
        if found := [key for key in others if mark.search(key)]:
            message = f"{len(found)} of its keys are {kind}, first {found[0]}: "
            problems.append(Problem(f"{message}glance loads only LoRA pairs"))
    unknown = [key for key in others if not any(m.search(key) for m in _OTHER_KINDS.values())]
    if unknown:
        message = f"{len(unknown)} of its keys are no half of a LoRA pair: {name_some(unknown)}"
        problems.append(Problem(message))
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


def _statements(header: Header, ranks: Mapping[str, int]) -> Iterator[Strength]:
    """Yield what says alpha, but for tensors, in the order in which it is believed."""
    own = _in_header(header.metadata)
    path = header.path.parent / ADAPTER_CONFIG
    try:
        beside = _beside(path, ranks)
    except LoraError:
        if own is None:
            raise
        beside = None  # damaged or another LoRA's, and not needed
    if own is not None:
        scaling, where = own
        if beside is not None and not _agree(scaling.factors(ranks), beside.factors(ranks)):
            raise LoraError(
                f"its header says alpha {scaling.alpha:g}, {path} says {beside.alpha:g}",
                hint=f"is {path} another LoRA's? {_MOVE}",
            )
        yield Strength(scaling.factors(ranks), where)
    if beside is not None:
        where = f"alpha is in {ADAPTER_CONFIG} beside it"
        yield Strength(beside.factors(ranks), where, is_own=False)
    trained = find_trained_config(header.path)
    recorded = None if trained is None else _recorded(trained, ranks)
    if recorded is not None:
        yield recorded
    kohya = _of_kohya(header, ranks)
    if kohya is not None:
        yield Strength(kohya.factors(ranks), "alpha is in its header (ss_network_alpha)")


def _in_header(metadata: Mapping[str, str]) -> tuple[Scaling, str] | None:
    """Read diffusers' adapter metadata, a LoraConfig under any key, or its fields as keys."""
    if ADAPTER_METADATA in metadata:
        what = f"its {ADAPTER_METADATA}"
        try:
            said = json.loads(metadata[ADAPTER_METADATA]).items()
        except (ValueError, AttributeError, RecursionError) as exc:
            raise LoraError(f"{what} cannot be read: {exc}") from exc
        if scaling := parse_scaling({key.removeprefix(PREFIX): own for key, own in said}, what):
            return scaling, "alpha is in its header"
    for key, text in metadata.items():
        config = _parse(text) if "lora_alpha" in text else None
        if isinstance(config, dict):
            bare = {name.removeprefix(PREFIX): value for name, value in config.items()}
            if scaling := parse_scaling(bare, f"its header's {key}"):
                return scaling, f"alpha is in its header ({key})"
    plain = {key.removeprefix(PREFIX): text for key, text in metadata.items()}
    options = {key: _parse(plain[key]) for key in _OPTIONS if key in plain}
    for key in _ALPHAS:
        config = {**options, "lora_alpha": _parse(plain.get(key, ""))}
        if scaling := parse_scaling(config, f"its header's {key}"):
            return scaling, f"alpha is in its header ({key})"
    return None


def _beside(path: Path, ranks: Mapping[str, int]) -> Scaling | None:
    """Read PEFT's config beside the file; raise LoraError unless it is this file's."""
    config = _read_json(path)
    if config is None or config.get("lora_alpha") is None:
        return None
    kind = str(config.get("peft_type") or "LORA").rpartition(".")[2].upper()
    if kind != "LORA":
        raise LoraError(f"{path} is of another kind of adapter, {kind}", hint=_MOVE)
    scaling = parse_scaling(config, str(path), remedy=f"fix it, or {_MOVE}")
    try:
        rank, patterns = config.get("r"), dict(config.get("rank_pattern") or {})
        fits = rank is None or all(
            _match_pattern(patterns, layer, rank) == own for layer, own in ranks.items()
        )
    except (TypeError, ValueError, re.error) as exc:
        raise LoraError(f"{path} cannot be read: {exc}", hint=_MOVE) from exc
    if not fits:
        found = ", ".join(map(str, sorted(set(ranks.values()))))
        raise LoraError(f"{path} is of rank {rank}, the LoRA of {found}", hint=_MOVE)
    return scaling


def _recorded(path: Path, ranks: Mapping[str, int]) -> Strength | None:
    """Read the options that SimpleTuner recorded; its usual alpha is the rank."""
    options = read_trained_options(path)
    if not options:
        return None
    alpha, rank = options.get("lora_alpha"), options.get("lora_rank")
    if isinstance(rank, int) and rank not in ranks.values():
        return None  # of another training
    where = f"alpha is in {path.name} beside it"
    if alpha is None:
        return Strength(dict.fromkeys(ranks, 1.0), f"{where}: the rank", is_own=False)
    start = options.get("lora_initialisation_style")
    said = {"lora_alpha": alpha, "init_lora_weights": start}
    scaling = parse_scaling(said, str(path), remedy=f"fix it, or {_MOVE}")
    return None if scaling is None else Strength(scaling.factors(ranks), where, is_own=False)


def _of_kohya(header: Header, ranks: Mapping[str, int]) -> Scaling | None:
    """Read what kohya's trainers note of a network whose own alpha tensors are gone.

    Converters to other names multiply alpha in, drop the tensors and keep the notes (musubi-tuner's
    convert_lora.py): so of a network of kohya's by other names they are not true any more.
    """
    metadata = header.metadata
    is_kohyas = metadata.get("ss_network_module", "").startswith("networks.")
    has_its_names = any(key.endswith(".lora_down.weight") for key in header.entries)
    rank = parse_finite(metadata.get("ss_network_dim"))
    if (is_kohyas and not has_its_names) or (rank is not None and rank not in ranks.values()):
        return None
    alpha = parse_finite(metadata.get("ss_network_alpha"))
    if not alpha:  # 0 and None stand for the rank, Dynamic for one of each layer's own
        return None
    return Scaling(alpha)


def _agree(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    return all(math.isclose(factor, other[layer], rel_tol=_SAME) for layer, factor in one.items())


def _match_pattern[T](patterns: Mapping[str, T], layer: str, usual: T) -> T:
    """Return the value of the first pattern that fits a layer; `get_pattern_key` of peft.utils."""
    fitting = (own for at, own in patterns.items() if re.match(rf"(.*\.)?({at})$", layer))
    return next(fitting, usual)


def _read_json(path: Path) -> dict[str, Any] | None:
    """Return a config's content; None where there is none. Raises LoraError for a damaged one."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            content = json.loads(file.read(_LONGEST))
    except (OSError, ValueError, RecursionError) as exc:
        raise LoraError(f"{path} cannot be read: {exc}", hint=f"fix it, or {_MOVE}") from exc
    if not isinstance(content, dict):
        raise LoraError(f"{path} cannot be read: it holds no config", hint=f"fix it, or {_MOVE}")
    return content


def _parse(text: str) -> Any:
    """Return what a header's text stands for, in JSON or Python's words; None: nothing is said."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        words: Mapping[str, Any] = {"none": None, "": None, "true": True, "false": False}
        return words.get(text.strip().lower(), text)


def parse_finite(text: str | None) -> float | None:
    """Return the number that a header holds as text; None: it holds none."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None
