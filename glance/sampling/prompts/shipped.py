"""Prompts that ship with the package: to teach a pair with, and others to judge it by.

They are lines of files in `glance/assets/prompts`, two for real models and two for the package's
small model, which knows one world alone. Of each, any first few are varied in themselves.
"""

from importlib.resources import files

from glance.core.errors import SettingsError


def teaching_prompts(count: int, *, world: bool) -> tuple[str, ...]:
    """Return the first `count` prompts to teach with, no two alike.

    `world`: captions of the small model's training scenes. Raises SettingsError for less than one,
    or more than there are.
    """
    return _first(count, "teaching", world=world, purpose="teach with")


def judging_prompts(count: int, *, world: bool) -> tuple[str, ...]:
    """Return the first `count` prompts to judge by, none of them among those to teach with.

    `world`: captions of scenes that the small model has never seen. Raises SettingsError for less
    than one, or more than there are.
    """
    return _first(count, "judging", world=world, purpose="judge by")


def _first(count: int, name: str, *, world: bool, purpose: str) -> tuple[str, ...]:
    path = files("glance") / "assets" / "prompts" / f"{'small-flux-' if world else ''}{name}.txt"
    lines = path.read_text(encoding="utf-8").splitlines()
    if 1 <= count <= len(lines):
        return tuple(lines[:count])
    raise SettingsError(
        f"glance has {len(lines)} prompts to {purpose}, not {count}",
        hint=f"ask for 1 to {len(lines)}, or give your own with --prompt-file",
    )
