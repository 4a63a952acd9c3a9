"""The base model: Hub id, folder, or a single file in place of its transformer. Loads nothing."""

import hashlib
import json
import math
import os
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Self

from pydantic import Field

from glance.core.errors import ModelNotFound, Problem, ScheduleError, SettingsError, reason_of
from glance.core.files import find_place, is_folder, open_file, read_text, record_place
from glance.core.hub import is_part, name_address, read_hub_text
from glance.core.kinds import LONGEST_HEADER, explain_tensors
from glance.core.settings import Settings
from glance.models.checkpoint import is_checkpoint, read_checkpoint
from glance.models.families import (
    DEFAULT_FAMILY,
    FAMILIES,
    Family,
    families_of_pipeline,
    find_family,
)
from glance.schedule.lists import ResolvedSchedule
from glance.schedule.options import (
    AUTO,
    OPTIMAL,
    OWN,
    ScheduleOptions,
    refuse_steps,
    resolve_derived,
    resolve_given,
    resolve_optimal,
)
from glance.schedule.shift import EmpiricalShift, KnownShift, read_shift

INDEX: Final = "model_index.json"
_SCHEDULER: Final = "scheduler/scheduler_config.json"
_TRANSFORMER: Final = "transformer/config.json"
PACKAGED: Final = "small-flux"
"""What the model in the package is called."""
_PACKAGED: Final = f"assets/{PACKAGED}"
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_SIDE_STEP: Final = 64  # 32 is the sample size that diffusers writes if nobody says one
_SMALL: Final = 4
"""A model made for less than this part of its family's side is a small one of its kind."""
_AGAIN: Final = "download or copy it again, whole"


class Weights(Settings):
    """Billions of parameters of a base model."""

    transformer: float = Field(ge=0, description="Billions of parameters.")
    text_encoders: tuple[float, ...] = Field(
        default=(), description="Billions of parameters, in SimpleTuner's order."
    )
    known: bool = Field(default=False, description="Counted or published, not guessed by family.")


@dataclass(frozen=True)
class BaseModel:
    """What --model, --pipeline and --family mean: where a model is, whose, and what is in it."""

    family: Family
    location: str
    """A Hub id, or a folder as seen from the working directory."""
    transformer: Path | None = None
    """A single file in place of its transformer."""

    @classmethod
    def resolve(
        cls, model: str | None, *, base: str | None = None, family: str | None = None
    ) -> Self:
        """Return what the user names: a whole model, or a single file and the `base` of the rest.

        Without a model it is the family's default, without a family the model's own, else the
        default one. What is here is never a name on the Hub. Raises ModelNotFound for a folder or
        file that is missing, incomplete or of another pipeline, SettingsError for what is neither
        a folder nor a Hub id, or of no supported family.
        """
        model = None if model is None else find_packaged(model)
        if family is not None:
            row = find_family(family)
        else:
            row = (model and detect_family(model)) or find_family(DEFAULT_FAMILY)
        if model is None or not is_checkpoint(model):
            if base is not None:
                raise SettingsError(
                    "--pipeline goes with a single file in --model",
                    hint="give a whole model to --model alone",
                )
            return cls(row, _locate(row.default_model if model is None else model, row))
        path = Path(model).expanduser()
        families = read_checkpoint(path).families
        if row not in families:
            raise SettingsError(
                f"model {model} is a file of {families[0].title}, not of {row.title}",
                hint=f"leave out --family, or say --family {families[0].name}",
            )
        return cls(row, _locate(base or row.default_model, row), path.resolve())

    @classmethod
    def recorded(cls, model: str, transformer: str | None, *, family: str, start: Path) -> Self:
        """Return what was recorded in the folder `start`, where it is now; raises ModelNotFound."""
        row, folder = find_family(family), find_place(model, start)
        if is_folder(folder):
            check_folder(folder, row)
        elif not is_hub_id(model):
            raise ModelNotFound(
                f"the run's base model is not at {folder}",
                hint="was the run or the model moved? say where the model is with --model",
            )
        file = None if transformer is None else find_place(transformer, start)
        if file is not None and not file.is_file():
            raise ModelNotFound(
                f"the run's transformer is not at {file}",
                hint="was the run or the file moved? say where the file is with --model",
            )
        return cls(row, str(folder) if is_folder(folder) else model, file)

    def record(self, start: Path) -> tuple[str, str | None]:
        """Return model and transformer as a run in the folder `start` writes them down."""
        file = None if self.transformer is None else record_place(self.transformer, start)
        if self.folder is None:
            return self.location, file
        place = record_place(self.folder, start)
        return f"./{place}" if is_hub_id(place) else place, file

    @property
    def folder(self) -> Path | None:
        """The folder; None for a Hub id."""
        path = Path(self.location)
        return path if is_folder(path) else None

    @property
    def name(self) -> str:
        """The name of the single file or the folder, or the last part of the Hub id."""
        return (self.transformer or Path(os.path.normpath(self.location))).name

    @property
    def hub_models(self) -> tuple[str, ...]:
        """The Hub models that a training needs: itself, and what its family borrows."""
        own, borrowed = self.sampled_hub_models, self.family.borrowed
        return own if borrowed is None else tuple(dict.fromkeys((*own, borrowed.model)))

    @property
    def sampled_hub_models(self) -> tuple[str, ...]:
        """The Hub models that sampling needs: of what is borrowed, what the model itself lacks."""
        own = (self.location,) if self.folder is None else ()
        borrowed = self.family.borrowed
        return own if borrowed is None or not borrowed.parts else (*own, borrowed.model)

    @cached_property
    def fingerprint(self) -> str:
        """What tells one base model from another; a single file counts by its name and size."""
        whole, file = fingerprint(self.location), self.transformer
        if file is None:
            return whole
        return f"{whole} {file.name} {file.stat().st_size if file.is_file() else 0}"

    @cached_property
    def weights(self) -> Weights:
        """How many parameters it has.

        Of a folder's or file's tensors only the headers are read; what is in no safetensors file
        does not count. A Hub model is known by its name, else taken for one of its family's size.
        """
        size = self.family.size
        if self.folder is not None:
            encoders = sorted(self.folder.glob("text_encoder*"))
            found = Weights(
                transformer=_count(self.folder.glob("transformer/*.safetensors")),
                text_encoders=tuple(_count(part.glob("*.safetensors")) for part in encoders),
                known=True,
            )
        else:
            named = (one for part, one in size.others.items() if part in self.location.lower())
            is_default = self.location == self.family.default_model
            published = size if is_default else next(named, None)
            found = Weights(
                transformer=(published or size).transformer,
                text_encoders=(published or size).text_encoders,
                known=published is not None,
            )
        if self.transformer is None:
            return found
        return found.model_copy(update={"transformer": _count([self.transformer]), "known": True})

    @cached_property
    def side(self) -> int | None:
        """The side of the square that it is made for, in pixels; None: unknown.

        It is the family's, unless it is a small model: such a one says so in its VAE's config.
        """
        usual = self.family.resolution
        if self.transformer is not None or self.location == self.family.default_model:
            return usual
        side = (read_model_json(self.location, "vae/config.json") or {}).get("sample_size")
        if not isinstance(side, int) or side < _SIDE_STEP:
            return None
        return side // _SIDE_STEP * _SIDE_STEP if side <= usual // _SMALL else usual

    @property
    def shown(self) -> str:
        """What people call it: its name on the Hub or in the package, or where it is from here."""
        if self.folder is None:
            return self.location
        is_ours = self.folder.resolve() == Path(str(files("glance") / _PACKAGED)).resolve()
        return PACKAGED if is_ours else os.path.relpath(self.folder)

    @cached_property
    def is_packaged(self) -> bool:
        """Whether it is the package's small model; by content, so a copy is it as well."""
        if self.folder is None or not (self.folder / INDEX).is_file():
            return False  # any other folder may hold a whole disk
        try:
            return fingerprint(self.location) == packaged_fingerprint()
        except OSError:  # out of reach: whoever loads it says it better
            return False

    def find_shift(self) -> KnownShift:
        """Return its shift.

        It is what its scheduler config says, as diffusers reads it; of the family's default model
        it is what glance has recorded of that, and so, doubtfully, where a config cannot be read.
        FLUX.2's pipelines compute theirs, whatever the config says.

        Raises ScheduleError where neither is known, or the config cannot be used.
        """
        family, recorded = self.family, self.family.shift
        if isinstance(recorded, EmpiricalShift):
            return KnownShift(recorded, f"as {family.pipeline} computes it")
        if recorded is not None and self.location == family.default_model:
            source = f"by the scheduler of {self.location}, as docs/families.md has it"
            return KnownShift(recorded, source)
        config = read_model_json(self.location, _SCHEDULER)
        found = None if config is None else read_shift(config)
        if found is not None:
            return KnownShift(found, "by the model's scheduler config")
        why = "cannot be read" if config is None else "is not of a flow-matching Euler scheduler"
        if recorded is None:
            raise ScheduleError(
                f"model {self.location}: its {_SCHEDULER} {why}, and glance does not know the "
                f"schedule of {family.title}",
                hint="give --model a folder in diffusers layout, or lists of your own",
            )
        doubt = Problem(
            f"model {self.location}: its {_SCHEDULER} {why}, the usual shift of {family.title} is "
            "taken",
            "give lists of your own if this model was made for another",
        )
        return KnownShift(recorded, f"by the usual shift of {family.title}", (doubt,))

    def resolve_schedule(self, options: ScheduleOptions, size: tuple[int, int]) -> ResolvedSchedule:
        """Return what `options` stand for at a width and height in pixels.

        Raises ScheduleError: an unknown name, a list that does not parse or breaks a rule, a file
        that cannot be used, a model whose schedule is not known; UsageError for numbers of steps
        where the name decides them.
        """
        refuse_steps(options)
        title, spacing = self.family.title, self.family.spacing
        if options.name in (AUTO, OWN):
            named = resolve_derived(options, self.find_shift(), size, title=title, spacing=spacing)
        elif options.name == OPTIMAL:
            # by the whole model, whatever file is in it
            named = resolve_optimal(options, fingerprint(self.location), size)
        else:
            named = resolve_given(options)
        schedule = options.replace_lists(named.schedule)
        if schedule is named.schedule:
            return named
        return ResolvedSchedule(schedule, "yours", named.doubts)


def detect_family(model: str) -> Family | None:
    """Return the family that a model's index names: a folder's, a cached one's, or the Hub's.

    None when the index cannot be read: BaseModel.resolve and check_access say better why. Raises
    SettingsError for a pipeline of no supported family.
    """
    for family in FAMILIES.values():
        if model == family.default_model:
            return family
    if is_checkpoint(model):
        return read_checkpoint(Path(model).expanduser()).families[0]
    pipeline = _pipeline_of(model)
    if pipeline is None:
        return None
    found = families_of_pipeline(pipeline)
    return found[0] if len(found) == 1 else _family_of_transformer(model, found)


def fingerprint(location: str) -> str:
    """Return what tells one whole model from another: a Hub id, or a hash over a folder's files.

    Of the weights only names and sizes are read, so it takes no time; of the rest, everything.
    """
    folder = Path(location)
    if not folder.is_dir():
        return location
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(folder).as_posix()} {file.stat().st_size}\n".encode())
        if file.suffix == ".json":
            digest.update(file.read_bytes())
    return digest.hexdigest()


def find_packaged(model: str) -> str:
    """Return where the model of that name in the package lies; any other model as it is."""
    if model != PACKAGED or Path(model).exists():
        return model
    return str(files("glance") / _PACKAGED)


def packaged_fingerprint() -> str:
    """Return what tells the model in the package from any other."""
    return fingerprint(str(files("glance") / _PACKAGED))


def is_hub_id(text: str) -> bool:
    """Whether it has the form of a name on the Hub; a folder of that name goes before it."""
    return _HUB_ID.fullmatch(text) is not None


def is_outside(model: str) -> bool:
    """Whether a recorded model is a folder that does not lie in the run."""
    return model.startswith("..")


def shown_model(model: str, *, run: Path) -> str:
    """Return a recorded model or file as people call it: a Hub id, or where it is from here."""
    if not is_outside(model):
        return model
    path = find_place(model, run)
    return os.path.relpath(path) if path.exists() else f"{path.name}, which is not where it was"


def read_model_json(model: str, name: str) -> dict[str, Any] | None:
    """Return a JSON object of a folder or a Hub model; None when it cannot be read."""
    try:
        folder = Path(model).expanduser()
        if os.path.lexists(folder):
            text: str | None = read_text(folder / name)
        else:
            text = read_hub_text(model, name) if is_hub_id(model) else None
        content = json.loads(text) if text is not None else None
    except (OSError, ValueError, RecursionError, RuntimeError):
        return None
    return content if isinstance(content, dict) else None


def check_folder(folder: Path, family: Family) -> None:
    """Raise unless `folder` holds all parts of one of the family's pipelines, whole.

    Raises ModelNotFound, or SettingsError for another family's.
    """
    index = folder / INDEX
    try:
        parts = json.loads(read_text(index))
        found = parts["_class_name"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as exc:
        files = sorted(folder.glob("*.safetensors"))
        raise ModelNotFound(
            f"model {folder}: there is no readable {INDEX} in it",
            hint=f"of a single file: --model {files[0]}"
            if len(files) == 1
            else "glance needs a whole model in diffusers layout, not a single file",
        ) from exc
    if found != family.pipeline:
        raise SettingsError(
            f"model {folder} is a {found}, {family.title} needs a {family.pipeline}",
            hint="leave out --family, or give the model that belongs to it",
        )
    _check_transformer(str(folder), family)
    borrowed = family.borrowed.parts if family.borrowed else {}
    missing = [
        name
        for name, kind in parts.items()
        if is_part(kind) and name not in borrowed and not (folder / name).is_dir()
    ]
    if missing:
        raise ModelNotFound(f"model {folder} lacks {', '.join(missing)}", hint=_AGAIN)
    _check_weights(folder, [name for name, kind in parts.items() if is_part(kind)])


def _check_weights(folder: Path, parts: list[str]) -> None:
    """Raise ModelNotFound for files of weights that are cut short, missing, or something else."""
    for name in parts:
        files = (
            path for end in ("safetensors", "bin") for path in (folder / name).glob(f"*.{end}")
        )
        for path in sorted(files):
            try:
                found = explain_tensors(path)
            except OSError as exc:
                found = (f"out of reach: {reason_of(exc)}", _AGAIN)
            is_pickle = found is not None and path.suffix == ".bin" and "pickle" in found[0]
            if found is not None and not is_pickle:  # transformers reads those with care
                raise ModelNotFound(
                    f"model {folder}: {path.relative_to(folder)} is {found[0]}", hint=found[1]
                )
        for path in sorted((folder / name).glob("*.safetensors.index.json")):
            index = read_model_json(str(folder / name), path.name) or {}
            shards = index.get("weight_map")
            named = set(shards.values()) if isinstance(shards, dict) else set()
            missing = [one for one in sorted(map(str, named)) if not (path.parent / one).is_file()]
            if missing:
                raise ModelNotFound(f"model {folder} lacks {name}/{missing[0]}", hint=_AGAIN)


def _check_pipeline(model: str, family: Family) -> None:
    """Raise SettingsError for a Hub model of another pipeline; nothing if nobody can say."""
    found = None if model == family.default_model else _pipeline_of(model)
    if found not in (None, family.pipeline):
        raise SettingsError(
            f"model {model} is a {found}, {family.title} needs a {family.pipeline}",
            hint="leave out --family, or give the model that belongs to it",
        )
    if found is not None:
        _check_transformer(model, family)


def _check_transformer(model: str, family: Family) -> None:
    """Raise SettingsError for a model of the same pipeline with another family's transformer."""
    if not family.transformer_config:
        return
    found = _family_of_transformer(model, families_of_pipeline(family.pipeline))
    if found is not None and found is not family:
        raise SettingsError(
            f"model {model} is {found.title}, not {family.title}",
            hint=f"leave out --family, or say --family {found.name}",
        )


def _family_of_transformer(model: str, families: tuple[Family, ...]) -> Family | None:
    """Return that one of `families` whose transformer the model has; None if nobody can say."""
    config = read_model_json(model, _TRANSFORMER)
    if config is None:
        return None
    return next((family for family in families if family.has_transformer(config)), None)


def _pipeline_of(model: str) -> str | None:
    name = (read_model_json(model, INDEX) or {}).get("_class_name")
    return name if isinstance(name, str) else None


def _count(paths: Iterable[Path]) -> float:
    """Return the billions of parameters in safetensors files; none in what is damaged."""
    return round(sum(map(_count_file, paths)) / 1e9, 4)


def _count_file(path: Path) -> int:
    try:
        with open_file(path) as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(size)) if size <= LONGEST_HEADER else {}
        return sum(
            math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__"
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        return 0  # whoever loads it says it better


def _hint(family: Family) -> str:
    return f"give --model a folder that holds {INDEX}, or a Hub id such as {family.default_model}"


def _locate(model: str, family: Family) -> str:
    """Return a Hub id, or the path of a folder from here; raise ModelNotFound, SettingsError."""
    if not model.strip():  # Path("") is the folder that one is in
        raise SettingsError("the model's name is empty", hint=_hint(family))
    try:
        folder = Path(model).expanduser()
        is_folder, exists = folder.is_dir(), os.path.lexists(folder)
    except (OSError, RuntimeError) as exc:  # out of reach, or in the home folder of an unknown user
        reason = reason_of(exc)
        raise ModelNotFound(f"model {model}: {reason}", hint=_hint(family)) from exc
    if is_folder:
        check_folder(folder, family)
        return os.path.relpath(folder.resolve())
    if is_hub_id(model) and not exists:
        _check_pipeline(model, family)
        return model
    if exists or model.startswith((".", "/", "~")) or "\\" in model or model.count("/") > 1:
        what = "is no folder" if exists else "not found"
        if folder.is_file():
            what = "is a file, not a folder in diffusers layout"
        elif folder.is_symlink():
            what = f"is a link to {folder.readlink()}, which is not there"
        named = name_address(model)
        hint = _hint(family) if named is None else f"of the Hub: --model {named.partition(':')[0]}"
        raise ModelNotFound(f"model {model}: {what}", hint=hint)
    raise ModelNotFound(
        f"model {model!r} is neither a folder nor a Hub id",
        hint=f"a Hub id looks like {family.default_model}",
    )
