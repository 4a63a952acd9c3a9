"""Licences: what people say of their pair, and what a base model's own licence says for them.

The Hub has an identifier for each licence (https://huggingface.co/docs/hub/repositories-licenses)
and checks it when a card arrives; `other` goes with a name and a link.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from glance.core.errors import Problem, SettingsError, UsageError

_ID: Final = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_LINK: Final = re.compile(r"https?://[^\s<>\"']+|LICENSE(\.md|\.txt)?")
_OTHER: Final = "other"
_LIST: Final = "huggingface.co/docs/hub/repositories-licenses lists them; else `other`"


@dataclass(frozen=True, slots=True)
class Licence:
    """A licence by the Hub's identifier; `other` has a name and a link."""

    id: str
    name: str | None = None
    link: str | None = None

    def __str__(self) -> str:
        """Return what people call it."""
        return self.name or self.id


def _other(name: str, link: str) -> Licence:
    return Licence(_OTHER, name, link)


_HUB: Final = "https://huggingface.co"
BINDING: Final[Mapping[str, Licence]] = MappingProxyType(
    {
        **{
            model: _other(
                "flux-1-dev-non-commercial-license", f"{_HUB}/{model}/blob/main/LICENSE.md"
            )
            for model in (
                "black-forest-labs/FLUX.1-dev",
                "black-forest-labs/FLUX.1-Krea-dev",
            )
        },
        "black-forest-labs/FLUX.2-dev": _other(
            "flux-dev-non-commercial-license",
            f"{_HUB}/black-forest-labs/FLUX.2-dev/blob/main/LICENSE.md",
        ),
        **{
            model: _other("stabilityai-ai-community", f"{_HUB}/{model}/blob/main/LICENSE.md")
            for model in (
                "stabilityai/stable-diffusion-3.5-medium",
                "stabilityai/stable-diffusion-3.5-large",
            )
        },
        "krea/Krea-2-Raw": _other(
            "krea-2-community-license", "https://www.krea.ai/krea-2-licensing"
        ),
    }
)
"""Base models whose licence goes on to what is made of them, as their cards on the Hub name it.

Of the others, Apache-2.0 and MIT mostly, it is for the author of a pair to say."""


def resolve_licence(
    base: str | None, *, licence: str | None, name: str | None = None, link: str | None = None
) -> Licence | None:
    """Return the licence that was asked for, else the one that the base model imposes, else none.

    Raises SettingsError with everything that is wrong with the one asked for.
    """
    if licence is None and name is None and link is None:
        return BINDING.get(base or "")
    _require_together(licence, name, link)
    assert licence is not None
    problems = list(_problems(licence, name, link))
    if problems:
        raise SettingsError(problems)
    return Licence(licence, name, link)


def check_licence(licence: str, *, flag: str) -> None:
    """Raise SettingsError unless it has the form of the Hub's identifiers."""
    if not _ID.fullmatch(licence):
        raise SettingsError(f"{flag} {licence!r} is no licence of the Hub", hint=_LIST)


def _require_together(licence: str | None, name: str | None, link: str | None) -> None:
    """Raise UsageError for flags that are missing, or would do nothing."""
    if licence is None:
        raise UsageError("--licence-name and --licence-link go with --licence other", hint="add it")
    if licence != _OTHER and (name or link):
        raise UsageError(
            f"--licence {licence} has its name and its text on the Hub",
            hint="drop --licence-name and --licence-link, or say --licence other",
        )
    if licence == _OTHER and not (name and link):
        raise UsageError(
            "--licence other: which one is it?",
            hint="add --licence-name and --licence-link, an address or LICENSE",
        )


def _problems(licence: str, name: str | None, link: str | None) -> Iterator[Problem]:
    if not _ID.fullmatch(licence):
        yield Problem(f"--licence {licence!r} is no licence of the Hub", _LIST)
    if name is not None and not _ID.fullmatch(name):
        yield Problem(
            f"--licence-name {name!r}: small letters, digits, dots and dashes make a name",
            "for example my-own-licence",
        )
    if link is not None and not _LINK.fullmatch(link):
        yield Problem(
            f"--licence-link {link!r} is neither an address nor LICENSE",
            "give https://..., or LICENSE for a file that you add to the repository",
        )
