"""What all settings share: frozen, nothing unknown in them, every bad value named at once."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Final, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from glance.core.errors import Problem, SettingsError, assigned, describe_fault

NO_NAMES: Final[Mapping[str, str]] = MappingProxyType({})


class Settings(BaseModel):
    """The base of all settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    flags: ClassVar[Mapping[str, str]] = NO_NAMES
    """How the user says a field, where that is not its own name with dashes."""

    @classmethod
    def checked(cls, names: Mapping[str, str] = NO_NAMES, /, **values: Any) -> Self:
        """Build from `values`; raise SettingsError with every value that is out of range.

        `names` says of fields how the user wrote them, where that was not a flag.
        """
        try:
            return cls(**values)
        except ValidationError as exc:
            raise SettingsError(dict.fromkeys(cls._problems(exc, names))) from exc

    @classmethod
    def flag(cls, field: str) -> str:
        """Return the flag that a field is said with."""
        return cls.flags.get(field, f"--{field.replace('_', '-')}")

    @classmethod
    def example(cls, field: str) -> str | None:
        """Return a value of a field that works, as it is typed."""
        info = cls.model_fields.get(field)
        return str(info.examples[0]) if info is not None and info.examples else None

    @classmethod
    def _problems(cls, exc: ValidationError, names: Mapping[str, str]) -> Iterator[Problem]:
        for fault in exc.errors():
            field = str(fault["loc"][0])
            name, example = names.get(field, cls.flag(field)), cls.example(field)
            remedy = None if example is None else f"{assigned(name, example)}, for example"
            yield Problem(f"{assigned(name, fault['input'])}: {describe_fault(fault)}", remedy)
