"""`--set key=value`: further SimpleTuner options, checked before its long start.

SimpleTuner's only check is its own parser, after about 13 s of imports. The list of the pinned
version's options is recorded in options.json (scripts/record_options.py).
"""

import difflib
import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from glance.core.errors import Problem, SettingsError

type OptionValue = bool | int | float | str

# What makes it a Glance run: option -> what to do instead.
_OWNED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "model_family": "use --family",
        "pretrained_model_name_or_path": "use --model",
        "max_train_steps": "use --steps",
        "lora_rank": "use --rank",
        "learning_rate": "use --learning-rate",
        "resolution": "use --resolution",
        "seed": "use --seed",
        "flow_custom_timesteps": "use --schedule, --slow-timesteps or --fast-timesteps",
        "mixed_precision": "use --device: it decides precision",
        "model_type": "glance trains LoRAs",
        "lora_type": "only 'standard' loads everywhere",
        "lora_format": "glance finalises SimpleTuner's diffusers format",
        "peft_lora_mode": "only 'standard' loads everywhere",
        "output_dir": "the run folder decides it: use --run",
        "data_backend_config": "glance writes it for the one pair",
        "train_batch_size": "there is one sample; of `glance distill`: use --batch-size",
        "num_train_epochs": "--steps alone decides the length",
        "resolution_type": "glance trains by area",
        "minimum_image_size": "glance has checked the size itself",
        "aspect_bucket_alignment": "glance sets the least that the family allows",
        "aspect_bucket_rounding": "glance has cut the picture itself",
        "resume_from_checkpoint": "glance resumes by itself; --restart begins anew",
        "webhook_config": "glance listens there for progress",
        **dict.fromkeys(
            (
                *("push_to_hub", "push_to_hub_background", "push_checkpoints_to_hub"),
                *("hub_model_id", "publishing_config", "dynamo_hub_repo_id"),
            ),
            "a run stays on this machine until `glance export hub` sends what is made for it",
        ),
        "delete_invalid_checkpoints": "glance never deletes checkpoints",
        "accelerate_config": "glance writes its own",
        "accelerate_extra_args": "glance trains in one process on one machine",
        "num_processes": "glance trains in one process on one machine",
        "num_machines": "glance trains in one process on one machine",
    }
)
_PATHS: Final = ("_path", "_config", "init_lora")  # how options end that name files and models
# Values that let whoever has them in: a run's files and logs are shared.
_SECRET: Final = re.compile(
    r"\b(hf|api_org|gh[pousr]|github_pat|glpat|sk|rk|xox[abeprs]|r8|wandb_v1)[-_][A-Za-z0-9_-]{16,}"
    r"|\b(AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\beyJ[\w-]+\.[\w-]+\."  # a JSON web token
    r"|://[^/\s:@]+:[^/\s@]+@"  # a password in an address
    r"|(?i:token|secret|password|key|credential)s?[\"']?\s*[:=]\s*\S"
)
_SECRET_NAME: Final = re.compile(r"(^|_)(token|secret|password|key|credential)s?$")
_HEXADECIMAL: Final = re.compile(r"\b[0-9a-f]{40}\b")  # wandb's keys; and Git's commits
_ENVIRONMENT: Final = (
    "leave it out: trackers and the Hub find their tokens in the environment or where their own "
    "`login` keeps them"
)
_TRUE: Final = ("true", "yes", "on", "1")
_FALSE: Final = ("false", "no", "off", "0")


def parse_overrides(pairs: Sequence[str]) -> dict[str, OptionValue]:
    """Read `key=value` pairs; keys may be spelled with leading dashes or inner hyphens.

    Raises SettingsError naming every pair that is malformed, unknown to the pinned SimpleTuner,
    of the wrong type, or not the user's to set in a Glance run.
    """
    known = _recorded()
    problems: list[Problem] = []
    overrides: dict[str, OptionValue] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        name = key.strip().lstrip("-").replace("-", "_")
        if _is_secret(name, text):
            shown = name if equals and not _SECRET.search(name) else "..."
            problems.append(
                Problem(
                    f"--set {shown}: its value looks like a token or a password, and a run's files "
                    "are shared",
                    _ENVIRONMENT,
                )
            )
        elif not equals or not name:
            problems.append(
                Problem(f"--set {pair}: it is not key=value", "write --set lora_dropout=0.1")
            )
        elif name in _OWNED:
            problems.append(Problem(f"--set {name}: it makes this a Glance run", _OWNED[name]))
        elif name not in known["options"]:
            problems.append(_unknown(name, known))
        elif name.endswith(_PATHS) and (path := _find_here(text.strip())) is not None:
            problems.append(
                Problem(
                    f"--set {name}: {text.strip()} is here, and SimpleTuner is started in the run "
                    "folder: from there it is nothing, or somebody's name on the Hub",
                    f"--set {shlex.quote(f'{name}={path}')}",
                )
            )
        else:
            try:
                overrides[name] = _convert(text.strip(), known["options"][name])
            except ValueError as exc:
                problems.append(Problem(f"--set {name}: {text!r} is not {exc}"))
    if problems:
        raise SettingsError(problems)
    return overrides


def recorded_version() -> str:
    """Return the version of SimpleTuner that glance is made for."""
    return str(_recorded()["simpletuner"])


def _is_secret(name: str, text: str) -> bool:
    """Whether a value, or what was typed without one, should be written nowhere."""
    if _SECRET.search(text) or _SECRET.search(name) or (text and _SECRET_NAME.search(name)):
        return True
    return name != "revision" and _HEXADECIMAL.search(text) is not None


def _recorded() -> Mapping[str, Any]:
    text = files("glance.training.simpletuner").joinpath("options.json").read_text(encoding="utf-8")
    recorded: Mapping[str, Any] = json.loads(text)
    return recorded


def _find_here(text: str) -> Path | None:
    """Return what a relative path names here, absolute; None where it names nothing."""
    try:
        path = Path(text)
        is_here = text and not path.is_absolute() and path.exists()
    except (OSError, ValueError):  # too long for a name, a NUL
        return None
    return path.absolute() if is_here else None


def _unknown(name: str, known: Mapping[str, Any]) -> Problem:
    near = difflib.get_close_matches(name, known["options"], n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "see `simpletuner train --help`"
    return Problem(f"--set {name}: SimpleTuner {known['simpletuner']} has no such option", hint)


def _convert(text: str, option: Mapping[str, Any]) -> OptionValue:
    """Return the value in the option's type; a ValueError says what it should have been."""
    choices = option.get("choices")
    if choices and text not in choices:
        raise ValueError(f"one of {', '.join(choices)}")
    match option["type"]:
        case "bool":
            if text.lower() not in _TRUE + _FALSE:
                raise ValueError("true or false")
            return text.lower() in _TRUE
        case "int":
            return _number(int, text, "a whole number")
        case "float":
            return _number(float, text, "a finite number")
        case _:
            return text


def _number[N: (int, float)](kind: type[N], text: str, name: str) -> N:
    try:
        number = kind(text)
    except ValueError:
        raise ValueError(name) from None
    if not -math.inf < number < math.inf:
        raise ValueError(name)
    return number
