"""A command's flags come from its request: each is declared once."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from glance.cli._command import Command, takes
from glance.cli.console import Console
from glance.core.options import Flag, Group


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, kw_only=True)
class Inner:
    steps: Annotated[int | None, Flag("Steps.", Group.SCHEDULE, least=1)] = None


@dataclass(frozen=True, kw_only=True)
class Request:
    image: Annotated[Path, Flag("The image.", Group.DATA, ("--image", "-i"))]
    prompts: Annotated[tuple[str, ...], Flag("Prompts.", Group.PROMPT, ("--prompt",))] = ()
    colour: Annotated[Colour, Flag("Colour.", Group.OUTPUT)] = Colour.RED
    metadata: Annotated[bool, Flag("None.", Group.OUTPUT, off="--no-metadata")] = True
    fast: Annotated[bool, Flag("Fast.", Group.ADVANCED)] = False
    size: Annotated[
        tuple[int, int] | None, Flag("Size.", Group.OUTPUT, parse=lambda text: text.split("x"))
    ] = None
    inner: Inner = field(default_factory=Inner)
    not_said: int = 7


@pytest.fixture
def run() -> Any:
    seen: list[Request] = []
    app = typer.Typer(rich_markup_mode=None)

    @app.command(cls=Command)
    @takes(Request)
    def paint(console: Console, request: Request, *, dry_run: bool = False) -> None:
        """Do it."""
        seen.append(request)

    def invoke(*words: str) -> Any:
        result = CliRunner().invoke(app, list(words))
        return seen[-1] if result.exit_code == 0 and seen else result

    return invoke


def test_everything_arrives_where_it_belongs_and_else_the_requests_own_defaults(run: Any) -> None:
    assert run("--image", "x.png") == Request(image=Path("x.png"))
    words = "-i x --prompt a --prompt b --colour blue --no-metadata --fast --steps 3 --size 2x3"

    request = run(*words.split())

    assert request.prompts == ("a", "b")
    assert (request.colour, request.metadata, request.fast) == (Colour.BLUE, False, True)
    assert (request.inner, request.size, request.not_said) == (Inner(steps=3), ["2", "3"], 7)


def test_advanced_options_are_named_in_the_help_and_told_in_help_all(run: Any) -> None:
    assert "  --fast: see --help-all" in run("--help").output
    assert "Fast." in run("--help-all").output
