"""SimpleTuner's options in glance's words: what is taken, what is kept, what is left out and why.

What the user's files say is kept where glance can keep it. What they leave out is decided as
`glance train` decides it, and every such difference is a remark.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from glance.core.errors import InputError, Problem, SettingsError
from glance.core.phase import Phase
from glance.interop.importing.configs import TrainerFile
from glance.interop.importing.remark import Remark
from glance.models.base import detect_family
from glance.models.families import FAMILIES, Family, find_family
from glance.runs.settings import TrainSettings
from glance.training.simpletuner.options import parse_overrides

_MAPPED: Final = (
    *("model_family", "pretrained_model_name_or_path", "max_train_steps", "lora_rank"),
    *("learning_rate", "resolution", "seed", "flow_custom_timesteps"),
)
_OF_A_PHASE: Final = ("output_dir", "flow_custom_timesteps", "tracker_run_name", "hub_model_id")
"""What the two configs may differ in."""
_PLACES: Final = ("output_dir", "data_backend_config", "webhook_config", "resume_from_checkpoint")
"""What any config says and no user means: nothing is said of it."""
_CANNOT: Final[Mapping[str, tuple[tuple[Any, ...], str]]] = MappingProxyType(
    {
        "model_type": (("lora",), "glance trains LoRAs"),
        "lora_type": (("standard",), "glance trains plain LoRAs: only these load everywhere"),
        "peft_lora_mode": (("standard",), "glance trains plain LoRAs: only these load everywhere"),
        "use_dora": ((False,), "glance trains plain LoRAs: only these load everywhere"),
        "train_text_encoder": ((False,), "glance trains the transformer alone"),
        "controlnet": ((False,), "glance trains no ControlNet"),
        "control": ((False,), "glance trains no control LoRA"),
        "pretrained_transformer_model_name_or_path": (
            (),
            "give the transformer's file with --model, and the rest with --base to `glance train`",
        ),
    }
)
"""Option -> the values that glance can do, and what it does."""


@dataclass(frozen=True, slots=True)
class Translation:
    """Both configs in glance's words."""

    family: Family
    model: str | None
    values: Mapping[str, Any]
    """Fields of a TrainRequest."""
    rest: Mapping[str, Any]
    """All other options: candidates for --set."""


def translate(
    files: Mapping[Phase, TrainerFile], *, family: str | None, model: str | None
) -> Translation:
    """Return what both configs say together; `family` and `model` go before them.

    Raises InputError with all problems: values on which they differ, numbers that are none, and
    trainings that glance cannot do.
    """
    slow, fast = files[Phase.SLOW], files[Phase.FAST]
    problems = [*_conflicts(slow, fast, ignored=_given(family, model)), *_impossible(slow.options)]
    values: dict[str, Any] = {}
    for name, field, kind in (
        ("max_train_steps", "steps", int),
        ("lora_rank", "rank", int),
        ("learning_rate", "learning_rate", float),
        ("resolution", "resolution", int),
        ("seed", "seed", int),
    ):
        try:
            number = _number(slow.options.get(name), kind)
        except ValueError:
            problems.append(
                Problem(
                    f"{slow.path}: {name}: {slow.options[name]}: it must be "
                    f"{'a whole number' if kind is int else 'a number'}",
                    f'write "{name}": {TrainSettings.example(field)}, for example',
                )
            )
            continue
        if number:  # 0 stands for "not said" in all of these
            values[field] = number
    base = model or _model(slow)
    try:
        row = _family(slow.options, family, base)
    except SettingsError as exc:
        raise InputError([*problems, *exc.problems]) from exc
    if problems:
        raise InputError(problems)
    rest = {name: value for name, value in slow.options.items() if name not in _MAPPED}
    return Translation(row, base, values, rest)


def split_options(
    rest: Mapping[str, Any], *, ours: Mapping[str, Any], root: Path, steps: int
) -> tuple[dict[str, Any], tuple[Remark, ...]]:
    """Return the options to keep with --set, and remarks on those that are left out.

    `ours` are glance's own values: what is equal to them is neither kept nor told of.
    """
    kept: dict[str, Any] = {}
    remarks: list[Remark] = []
    for name, value in rest.items():
        said = _text(value)
        why = _reason_against(name, value, root=root, steps=steps)
        if why is not None:
            remarks.append(Remark(name, said, "left out", why))
            continue
        try:
            option = parse_overrides([f"{name}={said}"])
        except SettingsError as exc:
            if name not in _PLACES and ours.get(name) != value and not _is_off(value):
                remarks.append(Remark(name, said, "left out", _refusal(exc, name)))
            continue
        if ours.get(name, value if _is_off(value) else None) != option[name]:
            kept |= option
    return kept, tuple(remarks)


def _given(family: str | None, model: str | None) -> tuple[str, ...]:
    """Return the options that the user's flags decide, whatever the configs say."""
    named = {"model_family": family, "pretrained_model_name_or_path": model}
    return tuple(name for name, flag in named.items() if flag is not None)


def _conflicts(slow: TrainerFile, fast: TrainerFile, *, ignored: tuple[str, ...]) -> list[Problem]:
    names = dict.fromkeys((*slow.options, *fast.options))
    return [
        Problem(
            f"{name}: {_text(slow.options.get(name, 'nothing'))} in {slow.path}, "
            f"{_text(fast.options.get(name, 'nothing'))} in {fast.path}",
            "make both alike; if both are trained, import the files: --slow-lora A --fast-lora B",
        )
        for name in names
        if name not in (*_OF_A_PHASE, *_PLACES, *ignored)
        and _text(slow.options.get(name)) != _text(fast.options.get(name))
    ]


def _impossible(options: Mapping[str, Any]) -> Iterator[Problem]:
    for name, (possible, what) in _CANNOT.items():
        if name in options and options[name] not in possible:
            yield Problem(f"{name}: {_text(options[name])} cannot be imported", what)


def _family(options: Mapping[str, Any], asked: str | None, model: str | None) -> Family:
    """Return the row of a SimpleTuner family; several rows may share its name."""
    if asked is not None:
        return find_family(asked)
    name = options.get("model_family")
    rows = [row for row in FAMILIES.values() if row.simpletuner_name == name]
    if not rows:
        return find_family(str(name))  # which says why not
    found = detect_family(model) if model is not None and len(rows) > 1 else None
    flavour = options.get("model_flavour")
    flavoured = (row for row in rows if row.training_options.get("model_flavour") == flavour)
    return found if found in rows and found is not None else next(flavoured, rows[0])


def _model(file: TrainerFile) -> str | None:
    """Return the base model; a folder or a file that lies where SimpleTuner is started, from here.

    A name that is no folder there is the Hub's.
    """
    name = file.options.get("pretrained_model_name_or_path")
    if name is None:
        return None
    path = file.root / str(name)
    return str(path) if _exists(path) else str(name)


def _reason_against(name: str, value: Any, *, root: Path, steps: int) -> str | None:
    """Return why an option is left out although SimpleTuner has it; None when nothing says so."""
    if name in ("checkpoint_step_interval", "checkpointing_steps"):
        number = value if isinstance(value, int) else 0
        if number > steps:
            return f"{steps} steps would never write one: every tenth of the run is"
        if name == "checkpointing_steps":
            return "SimpleTuner says checkpoint_step_interval; every tenth of the run is written"
    if name.startswith("validation_") or name == "num_eval_images":
        return None if name == "validation_disable" else "--sample-every N lets SimpleTuner paint"
    if name.startswith(("push_", "hub_")) and not _is_off(value):
        return "a run stays on this machine"
    if isinstance(value, list | dict):
        return "it is no single value"
    if any("\ud800" <= letter <= "\udfff" for letter in str(value)):
        return "it holds characters that are no text"
    if isinstance(value, str) and "/" in value and name not in _PLACES and _exists(root / value):
        return "it names a file of the old project, which a run does not hold; say it with --set"
    return None


def _refusal(exc: SettingsError, name: str) -> str:
    problem = exc.problems[0]
    said = problem.message.removeprefix(f"--set {name}: ")
    return f"{said}; {problem.hint}" if problem.hint else said


def _number(value: Any, kind: type[int] | type[float]) -> int | float | None:
    if value is None:
        return None
    number = float(str(value))  # str: true is no number
    if kind is int and not number.is_integer():
        raise ValueError("not whole")
    return kind(number)


def _exists(path: Path) -> bool:
    with suppress(OSError):  # a text that is too long for a name is none
        return path.exists()
    return False


def _is_off(value: Any) -> bool:
    """Whether it says what SimpleTuner does anyway: nothing."""
    return value is False or value in ("false", "False", "none", "")


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
