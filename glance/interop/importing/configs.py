"""SimpleTuner's config files: found, read, and told apart as slow and fast. Changes nothing."""

import json
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from glance.core.errors import InputError, Problem, RunError, ScheduleError, SettingsError
from glance.core.files import is_folder, read_text
from glance.core.phase import Phase
from glance.models.lora.strength import TRAINED_CONFIG, find_trained_config
from glance.runs.folder import LORA_FILE, RunFolder
from glance.schedule.lists import parse_list

LIST: Final = "flow_custom_timesteps"
_PLACES: Final = ("*", "config/*", "*/config", "config/*/config")
_ENDINGS: Final = (".json", ".toml")
_BOTH: Final = "say which they are: --slow-config A --fast-config B"


@dataclass(frozen=True, slots=True)
class TrainerFile:
    """One phase's options, as SimpleTuner would read them."""

    path: Path
    options: Mapping[str, Any]
    """By name, without leading dashes; what is null or empty is left out, as SimpleTuner does."""

    @property
    def root(self) -> Path:
        """The folder that SimpleTuner is started in: relative paths begin there."""
        backend = str(self.options.get("data_backend_config", "config/multidatabackend.json"))
        above = self.path.absolute().parents
        found = next((one for one in above if (one / backend).is_file()), None)
        named = next((one.parent for one in above if one.name == "config"), above[0])
        return Path(*_shortened(found or named))

    @property
    def timesteps(self) -> str | None:
        """The list that the phase is trained on, as text."""
        given = self.options.get(LIST)
        if isinstance(given, list):
            return ",".join(map(str, given))
        return None if given is None else str(given)

    @property
    def lora(self) -> Path:
        """Where its finished LoRA is, or will be."""
        return self.root / str(self.options.get("output_dir", "output")) / LORA_FILE


def find_trainer_files(folder: Path) -> Mapping[Phase, TrainerFile]:
    """Return the slow and the fast config in `folder`, by their lists: the noisier one is slow.

    They may lie in it, in its config/, or in a folder each, as SimpleTuner keeps them. Raises
    InputError with all that is wrong when they are not exactly two, RunError for a run of glance.
    """
    if is_folder(folder) and RunFolder(folder).manifest.exists():
        raise RunError(
            f"{folder} is a run of glance already",
            hint="its own `glance train` command continues it; there is nothing to import",
        )
    if not is_folder(folder):
        raise SettingsError(
            f"{folder} is not there, or is not a folder",
            hint=f"give the folder that SimpleTuner is started in, or {_BOTH}",
        )
    problems: list[Problem] = []
    found: list[TrainerFile] = []
    for path in _candidates(folder):
        try:
            file = read_trainer_file(path)
        except InputError as exc:
            problems += exc.problems
            continue
        if file.timesteps is not None:
            found.append(file)
    if len(found) != 2:
        names = ", ".join(str(file.path) for file in found) or "none"
        files = (*folder.glob("*.safetensors"), *folder.glob("*/*.safetensors"))
        count = Problem(
            f"{folder}: two SimpleTuner configs with a {LIST} are needed, found {names}",
            "of trained LoRAs: --slow-lora A --fast-lora B" if files and not found else _BOTH,
        )
        raise InputError([count, *problems])
    slow, fast = sorted(found, key=_noise, reverse=True)
    return {Phase.SLOW: slow, Phase.FAST: fast}


def read_named_files(slow: Path, fast: Path) -> Mapping[Phase, TrainerFile]:
    """Return the two configs that the user names; raise InputError with the problems of both."""
    problems: list[Problem] = []
    files: dict[Phase, TrainerFile] = {}
    for phase, path in ((Phase.SLOW, slow), (Phase.FAST, fast)):
        try:
            files[phase] = read_trainer_file(path)
        except InputError as exc:
            problems += exc.problems
            continue
        if files[phase].timesteps is None:
            problems.append(
                Problem(f"{path}: it has no {LIST}", "a phase is its list: add the one it is for")
            )
    if problems:
        raise InputError(problems)
    if _noise(files[Phase.SLOW]) < _noise(files[Phase.FAST]):
        raise ScheduleError(
            f"{slow} has the less noisy list, {fast} the noisier one",
            hint="swap --slow-config and --fast-config",
        )
    return files


def read_trainer_file(path: Path) -> TrainerFile:
    """Read one config, JSON or TOML, keys with or without dashes; raise SettingsError."""
    if path.suffix == ".env":
        raise SettingsError(
            f"{path}: a config.env is a shell script, which glance does not run",
            hint='write its options as JSON: {"model_family": "flux", ...}',
        )
    try:
        text = read_text(path)
        content = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as exc:
        raise SettingsError(
            f"{path}: {exc.strerror or exc}", hint="give the config of a phase"
        ) from exc
    except (ValueError, RecursionError) as exc:
        kind = "TOML" if path.suffix == ".toml" else "JSON"
        raise SettingsError(
            f"{path}: it is no {kind} ({exc})", hint="mend it; SimpleTuner cannot read it either"
        ) from exc
    if not isinstance(content, dict):
        raise SettingsError(
            f"{path}: it holds no options but a {type(content).__name__}",
            hint="give the config of a phase, not the data backend's",
        )
    return TrainerFile(path, _bare(content))


def read_trained_config(lora: Path) -> Mapping[str, Any] | None:
    """Return the options that SimpleTuner wrote beside a LoRA, or above its checkpoint."""
    path = find_trained_config(lora)
    if path is not None:
        with suppress(SettingsError):  # a damaged one says nothing, and is nobody's fault
            return read_trainer_file(path).options
    return None


def _candidates(folder: Path) -> Iterator[Path]:
    """Yield the files that may be configs of phases; a folder's own list of data is none."""
    seen = set()
    for place in _PLACES:
        for ending in _ENDINGS:
            for path in sorted(folder.glob(place + ending)):
                if path not in seen and path.is_file() and not _is_other(path):
                    seen.add(path)
                    yield path


def _is_other(path: Path) -> bool:
    """Whether it is JSON for something else, as far as that shows without its options."""
    if path.name == TRAINED_CONFIG:
        return True
    with suppress(OSError, ValueError, RecursionError):
        return path.suffix == ".json" and not isinstance(json.loads(path.read_bytes()), dict)
    return False


def _noise(file: TrainerFile) -> float:
    """Return the list's first value; a list that does not parse is reported later."""
    with suppress(ScheduleError):
        return max(parse_list(file.timesteps or "", name=str(file.path)).timesteps)
    return 0.0


def _bare(content: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key.strip().lstrip("-").replace("-", "_"): value
        for key, value in content.items()
        if value is not None and value != ""
    }


def _shortened(path: Path) -> tuple[str, ...]:
    """Return the parts of `path`, relative to where the user is if it lies below that."""
    here = Path.cwd()
    return path.relative_to(here).parts if path.is_relative_to(here) else path.parts
