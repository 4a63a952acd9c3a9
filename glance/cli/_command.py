"""A command whose flags are the fields of its request, and its help under headings."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

from glance.cli._config import CONFIG, SAVE, config_options, heading, save_config
from glance.cli._usage import refuse_repeated
from glance.cli.console import Console
from glance.core.errors import UsageError, quoted
from glance.core.options import Field, Group, build, declared

_WORDS: Final = {str: "TEXT", int: "INTEGER", float: "NUMBER", Path: "PATH"}
_ALL: Final = "--help-all"
_CONTEXT: Final = "_context"
_OTHERS: Final = "Options"  # the heading of what stands under no other


def takes[R](
    request: type[R] | None = None, *names: str, **given: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command its console, and a flag for each declared field of `request`, or for `names`.

    The command takes the console first, which heeds --json, --quiet and --verbose, and then the
    request, made of what was typed and `given`; its other parameters are flags as Typer declares
    them.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        every = {"_".join(one.path): one for one in (declared(request) if request else ())}
        fields = {name: one for name, one in every.items() if not names or one.path[0] in names}
        elsewhere = {name for key in every.keys() - fields.keys() for name in every[key].names}
        own = list(inspect.signature(command, eval_str=True).parameters.values())
        context = next((one.name for one in own if one.annotation is typer.Context), None)

        def run(*, as_json: bool, quiet: bool, verbose: bool, **values: Any) -> None:
            console = Console(as_json=as_json, quiet=quiet, verbose=verbose)
            made: list[Any] = [console]
            if request is not None:
                values.pop(CONFIG)  # Click has it
                file, ctx = values.pop(SAVE, None), values[context or _CONTEXT]
                if context is None:
                    values.pop(_CONTEXT)
                if file is not None and ctx.invoked_subcommand is None:
                    save_config(ctx, fields, file)
                    console.note(f"saved: {ctx.command_path} --config {quoted(file)}")
                said: dict[tuple[str, ...], Any] = {(name,): one for name, one in given.items()}
                said |= {one.path: one.take(values.pop(name)) for name, one in fields.items()}
                made.append(build(request, said))
            command(*made, **values)

        signature = [
            *(
                _parameter(name, Annotated[_typer_type(field), _option(field)], _default(field))
                for name, field in fields.items()
            ),
            *(
                one.replace(kind=inspect.Parameter.KEYWORD_ONLY)
                for one in own[1 if request is None else 2 :]
            ),
        ]
        if request is not None:
            options = config_options(fields, elsewhere=elsewhere)
            signature += [_parameter(name, kind, None) for name, kind in options.items()]
            if context is None:
                signature.append(_parameter(_CONTEXT, typer.Context))
        signature += [_parameter(name, kind, default=False) for name, kind in _TALK.items()]
        run.__signature__ = inspect.Signature(signature)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in signature}
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run

    return decorate


def _parameter(
    name: str, annotation: Any, default: Any = inspect.Parameter.empty
) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, annotation=annotation, default=default)


class _Parsing:
    """What commands and groups have in common: flags hold one value, help stands under headings.

    Advanced options are told by --help-all alone.
    """

    params: list[Any]
    _shows_all = False

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        self._shows_all = _ALL in args
        refuse_repeated(self, ctx, args)
        return super().parse_args(ctx, args)  # type: ignore[misc, no-any-return]

    def get_help_option_names(self, ctx: Any) -> list[str]:
        names = super().get_help_option_names(ctx)  # type: ignore[misc]
        has_more = any(heading(one) == Group.ADVANCED for one in self.params)
        return [*names, _ALL] if has_more else names

    def format_options(self, ctx: Any, formatter: Any) -> None:
        parameters = self.get_params(ctx)  # type: ignore[attr-defined]
        arguments = [p.get_help_record(ctx) for p in parameters if p.param_type_name == "argument"]
        if any(arguments):
            with formatter.section("Arguments"):
                formatter.write_dl([record for record in arguments if record])
        options = [p for p in parameters if p.param_type_name == "option" and not p.hidden]
        for title in (*Group, _OTHERS):
            some = [p for p in options if (heading(p) or _OTHERS) == title]
            if not some:
                continue
            with formatter.section(title):
                if title == Group.ADVANCED and not self._shows_all:
                    names = ", ".join(p.opts[0] for p in some)
                    formatter.write_text(f"{names}: see {_ALL}")
                else:
                    formatter.write_dl([p.get_help_record(ctx) for p in some])


class Command(_Parsing, TyperCommand):
    """A command of glance's."""


class CommandGroup(_Parsing, TyperGroup):
    """A command that has commands below it."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


def guard_commands(app: typer.Typer) -> None:
    """Make all commands of `app`, and of the groups in it, glance's."""
    for command in app.registered_commands:
        if command.cls is TyperCommand:
            command.cls = Command
    for group in app.registered_groups:
        if group.typer_instance is not None:
            guard_commands(group.typer_instance)


def _option(field: Field) -> Any:
    flag = field.flag
    more: dict[str, Any] = {"min": flag.least, "max": flag.most, "parser": flag.parse}
    return typer.Option(
        *field.names,
        help=flag.help,
        metavar=flag.kind or _WORDS.get(field.kind),
        rich_help_panel=flag.group.value,
        **{name: value for name, value in more.items() if value is not None},
    )


def _typer_type(field: Field) -> Any:
    kind = str if field.flag.parse else field.kind
    if field.is_several:
        return list[kind] | None  # type: ignore[valid-type]
    return kind | None if field.default is None or field.flag.parse else kind


def _default(field: Field) -> Any:
    if field.flag.off is not None:
        return False
    if field.default is MISSING:
        return inspect.Parameter.empty
    if field.flag.parse is not None or field.is_several:
        return None  # `take` puts it in
    return field.default if field.flag.choices is None else field.flag.choices(field.default)


def _run_option(*names: str, help: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel=Group.RUN)


DryRunOption = Annotated[
    bool, _run_option("--dry-run", help="Show what would be done; write and load nothing.")
]
EventsOption = Annotated[
    Path | None,
    _run_option(
        "--events", help="Append one JSON event a line to this file; - for stdout.", metavar="PATH"
    ),
]
OpenOption = Annotated[
    bool,
    typer.Option(
        "--open", help="Open the result with the system's viewer.", rich_help_panel=Group.OUTPUT
    ),
]
_TALK: Final = {
    "as_json": Annotated[
        bool, _run_option("--json", help="One JSON document on stdout, at the end.")
    ],
    "quiet": Annotated[bool, _run_option("--quiet", "-q", help="Results and errors only.")],
    "verbose": Annotated[
        bool, _run_option("--verbose", "-v", help="Everything, the trainer's own output too.")
    ],
}


_FLAG = "--plot"
TERMINAL = Path("-")
"""What the option holds where no file is given."""

PlotOption = Annotated[
    Path | None,
    typer.Option(
        _FLAG, metavar="[FILE]", help="Draw it: to a .png or .svg file; without a file, here."
    ),
]


def require_plot(plot: Path | None, *, opens: bool) -> None:
    """Raise UsageError for `--open` without a file to open."""
    if opens and plot in (None, TERMINAL):
        raise UsageError("--open opens a file, and none is drawn", hint=f"give {_FLAG} a file")


class PlotCommand(Command):
    """A command with `PlotOption`: `command(cls=PlotCommand)`.

    Typer's own Click has no options whose value may be left out (`flag_value`), so a bare `--plot`
    gets the value `-` before it is parsed.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(_complete(args)))


class PlotGroup(CommandGroup):
    """The same for a command that has commands below it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(_complete(args)))


def _complete(args: Sequence[str]) -> Iterator[str]:
    """Yield the arguments, a `-` after each `--plot` that nothing or an option follows."""
    for place, argument in enumerate(args):
        yield argument
        after = args[place + 1 : place + 2]
        if argument == _FLAG and (not after or (after[0].startswith("-") and after != ["-"])):
            yield str(TERMINAL)
