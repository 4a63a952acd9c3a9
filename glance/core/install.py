"""How to get a package that is missing, wherever glance was installed from."""

import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

_CLONE: Final = Path(__file__).parents[2] / "pyproject.toml"
_EXTRA: Final = "cuda"  # the only one


def how_to_install(package: str) -> str:
    """Return the command that brings `package`, in the version that glance was proven with.

    In a clone that is uv's; elsewhere (`uv tool install`, pipx, pip) glance's own environment is
    added to. On no index there is a glance to install anew.
    """
    # they take time, are seldom needed, and every --help imports this module
    from importlib.metadata import requires

    from packaging.requirements import Requirement

    declared = [Requirement(text) for text in requires("glance-lora") or ()]
    wanted = next((one for one in declared if one.name == package), Requirement(package))
    if _CLONE.is_file():
        extra = f" --extra {_EXTRA}" if wanted.marker else ""
        return f"in glance's clone: uv sync{extra}"
    extras = f"[{','.join(sorted(wanted.extras))}]" if wanted.extras else ""
    pip = [sys.executable, "-m", "pip", "install"]
    uv = ["uv", "pip", "install", "--python", sys.executable]
    return shlex.join([*(pip if find_spec("pip") else uv), f"{package}{extras}{wanted.specifier}"])
