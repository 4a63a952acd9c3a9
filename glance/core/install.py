"""How to get a package that is missing, wherever glance was installed from."""

import re
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

_CLONE: Final = Path(__file__).parents[2] / "pyproject.toml"
_EXTRA: Final = re.compile(r"extra == \"(\w+)\"")


def how_to_install(package: str) -> str:
    """Return the command that brings `package`, in the version that glance was proven with.

    In a clone that is uv's; elsewhere (`uv tool install`, pipx, pip) glance's own environment is
    added to. On no index there is a glance to install anew.
    """
    # they take time, are seldom needed, and every --help imports this module
    from importlib.metadata import requires

    from packaging.requirements import Requirement

    declared = [Requirement(text) for text in requires("glance-lora") or ()]
    known = next((one for one in declared if one.name == package), None)
    wanted = known or Requirement(package)
    if _CLONE.is_file() and known is not None:
        extra = _EXTRA.search(str(wanted.marker))
        return f"in glance's clone: uv sync{f' --extra {extra[1]}' if extra else ''}"
    extras = f"[{','.join(sorted(wanted.extras))}]" if wanted.extras else ""
    pip = [sys.executable, "-m", "pip", "install"]
    uv = ["uv", "pip", "install", "--python", sys.executable]
    return shlex.join([*(pip if find_spec("pip") else uv), f"{package}{extras}{wanted.specifier}"])
