"""What is found about the user's files, and the words for it: safe to print, all at once."""

import shlex
from dataclasses import dataclass, field
from pathlib import Path

from glance.core.errors import Problem
from glance.core.files import require_file


@dataclass(frozen=True, slots=True)
class Findings:
    """Faults and warnings, in the order in which they are met."""

    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def refuse(self, message: str, hint: str) -> None:
        """Add what makes the pair unfit."""
        self.problems.append(Problem(message, hint))

    def warn(self, message: str, hint: str) -> None:
        """Add what the user should know."""
        self.warnings.append(Problem(message, hint))


def is_readable(path: Path, what: str, found: Findings, *, remedy: str) -> bool:
    """Refuse what is not a regular file that can be opened."""
    try:
        require_file(path)
    except (FileNotFoundError, NotADirectoryError):
        found.refuse(f"{what} does not exist", remedy)
    except PermissionError:
        found.refuse(f"{what} may not be read", f"chmod u+r {quoted(path)}")
    except IsADirectoryError:
        found.refuse(f"{what} is a directory", remedy)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        found.refuse(f"{what} cannot be read: {getattr(error, 'strerror', error)}", remedy)
    else:
        return True
    return False


def shown(value: object) -> str:
    """Return text that is safe to print, whatever a file name or a decoder's message holds."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(value))


def quoted(path: Path) -> str:
    """Return a path as a shell takes it, safe to print."""
    text = str(path)
    return shown(shlex.quote(f"./{text}" if text.startswith("-") else text))


def unused_path(path: Path) -> Path:
    """Return `path`, or one like it with a number, where nothing is: for a command to write to."""
    candidate, number = path, 1
    while candidate.exists() or candidate.is_symlink():
        number += 1
        candidate = path.with_stem(f"{path.stem}-{number}")
    return candidate
