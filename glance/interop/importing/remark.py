"""What of the user's files becomes something else, and why: one sentence each."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Remark:
    """One option of the user's files that glance does not take as it is, or that is missing."""

    option: str
    says: str
    """The user's own value; empty: the files say nothing."""
    does: str
    """What glance does instead."""
    why: str

    def sentence(self) -> str:
        """Return it as a line for a person."""
        said = f"{self.option}={self.says}" if self.says else f"no {self.option}"
        return f"{said}: {self.does} ({self.why})"

    def to_json(self) -> dict[str, str | None]:
        """Return what `--json` says of it."""
        return {
            "option": self.option,
            "says": self.says or None,
            "does": self.does,
            "why": self.why,
        }
