"""What all settings share: frozen, nothing unknown in them, every bad value named at once."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from glance.errors import Problem, SettingsError


class Settings(BaseModel):
    """The base of all settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def checked(cls, **values: Any) -> Self:
        """Build from `values`; raise SettingsError with every value that is out of range."""
        try:
            return cls(**values)
        except ValidationError as exc:
            raise SettingsError(
                Problem(f"{'.'.join(map(str, item['loc']))}: {item['input']!r}: {item['msg']}")
                for item in exc.errors()
            ) from exc
