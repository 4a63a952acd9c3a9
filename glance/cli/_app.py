"""The Typer application: its commands, and the one place where errors become exit codes."""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from glance import __version__
from glance.cli._command import guard_commands
from glance.cli._usage import check_words, respell, translate
from glance.cli.batch import batch
from glance.cli.check import check
from glance.cli.compare import compare
from glance.cli.console import Console
from glance.cli.demo import demo
from glance.cli.distill import distill
from glance.cli.doctor import doctor
from glance.cli.export import export
from glance.cli.import_ import import_
from glance.cli.infer import infer
from glance.cli.info import info
from glance.cli.runs import runs
from glance.cli.schedule import schedule
from glance.cli.train import train
from glance.cli.web import web
from glance.core.errors import INTERRUPTED, GlanceError, SetupError, Stopped

_HELP = "NoArgsIsHelpError"  # Typer's for a group without a command: the help is its message
_WORDS = "glance.words"


class _Group(TyperGroup):
    """Turns refusals, failures and signals into stderr text and documented exit codes.

    A bug in glance is none of these and keeps its traceback.
    """

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **more: Any) -> Any:
        words = tuple(args)
        Console(as_json="--json" in words)  # until the command makes its own
        with _refusals_told(words):
            _require_folder()
            context = super().make_context(info_name, args, *rest, **more)
        context.meta[_WORDS] = words
        return context

    def invoke(self, ctx: Any) -> Any:
        words = ctx.meta[_WORDS]
        with _refusals_told(words), _signals_raised():
            check_words(self, words)
            return super().invoke(ctx)


def _require_folder() -> None:
    """Raise SetupError where the working folder was removed: nothing can be found from there."""
    try:
        os.getcwd()  # noqa: PTH109
    except FileNotFoundError as exc:
        raise SetupError(
            "the folder that you are in is gone", hint="cd to another one, or to its new place"
        ) from exc


app = typer.Typer(
    name="glance",
    cls=_Group,
    help="One image and its caption in, two few-step LoRAs out, and images in ten steps.",
    epilog="Start with: glance demo",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help starts in half the time
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 160},
)
for command in (demo, doctor, check, train, distill, infer, compare, info, web):
    app.command()(command)
app.command("generate", hidden=True, help="The same as glance infer.")(infer)
app.command("import")(import_)
app.add_typer(export, name="export")
app.add_typer(schedule, name="schedule")
app.add_typer(runs, name="runs")
app.add_typer(batch, name="batch")


guard_commands(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        Console().result(f"glance {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """One image and its caption in, two few-step LoRAs out, and images in ten steps."""


@contextmanager
def _refusals_told(words: Sequence[str]) -> Iterator[None]:
    """Tell what ends a command, whose `words` these are, and end it with the exit code of that."""
    try:
        yield
    except GlanceError as exc:
        exc.problems = tuple(respell(problem, words) for problem in exc.problems)
        Console.current.as_json |= "--json" in words  # behind a command of the group that refuses
        Console.current.error(exc)
        raise typer.Exit(exc.exit_code) from exc
    except typer.TyperException as exc:
        if type(exc).__name__ == _HELP:
            raise
        refusal = translate(exc)
        Console.current.error(refusal)
        raise typer.Exit(refusal.exit_code) from exc
    except KeyboardInterrupt as exc:
        Console.current.stopped(INTERRUPTED)
        raise typer.Exit(INTERRUPTED) from exc
    except Stopped as exc:
        Console.current.stopped(exc.exit_code)
        raise typer.Exit(exc.exit_code) from exc
    except BrokenPipeError:
        # whoever read our output has left; keep Python from failing again at its exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None


@contextmanager
def _signals_raised() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind like Ctrl-C, so that nothing is left running or half done."""

    def raise_stopped(number: int, _: FrameType | None) -> None:
        raise Stopped(number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {}
    with suppress(ValueError):  # not in the main thread: an application runs us
        before = {number: signal.signal(number, raise_stopped) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
