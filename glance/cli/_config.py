"""`--config` and `--save-config`: what is said to a command, in a file.

Its values are Click's defaults (`default_map`): the flags' own parsers read them, and flags win.
"""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from glance.cli._usage import check_value, translate
from glance.core.documents import is_rendered, read_document, render_document
from glance.core.errors import GlanceError, SettingsError, SetupError, reason_of
from glance.core.options import Field, Group, flatten, match_keys, placed

_SAID: Final = ("COMMANDLINE", "DEFAULT_MAP")  # where a value comes from, in Click's words
CONFIG: Final = "config"
SAVE: Final = "save_config"
_OF_ONE_COMMAND: Final = frozenset(
    {CONFIG, SAVE, "dry_run", "events", "opens", "plot", "as_json", "quiet", "verbose"}
)
"""Parameters that no file keeps: how a command tells what it does."""


def config_options(fields: Mapping[str, Field], *, elsewhere: Collection[str]) -> dict[str, Any]:
    """Return the annotations of both options, for a command whose parameters `fields` declare.

    Flags in `elsewhere` are passed over in a file: they are of the same request, of which this
    command asks for a part.
    """

    def load(ctx: typer.Context, value: Path | None) -> Path | None:
        if value is not None and not ctx.resilient_parsing:
            ctx.default_map = _read(ctx, value, fields, elsewhere)
        return value

    options = {
        CONFIG: Annotated[
            Path | None,
            typer.Option(
                "--config",
                help="YAML file with options by their names, such as learning-rate: 0.0001. Flags "
                "win; paths are as on the command line.",
                metavar="FILE",
                rich_help_panel=Group.RUN,
                is_eager=True,
                callback=load,
            ),
        ]
    }
    if not elsewhere:
        options[SAVE] = Annotated[
            Path | None,
            typer.Option(
                "--save-config",
                help="Write what is said here to a file for --config, and go on.",
                metavar="FILE",
                rich_help_panel=Group.RUN,
            ),
        ]
    return options


def heading(parameter: Any) -> str | None:
    """Return the heading that a parameter stands under in the help."""
    found: str | None = getattr(parameter, "rich_help_panel", None)
    return found


def save_config(ctx: typer.Context, fields: Mapping[str, Field], path: Path) -> None:
    """Write what was said to `path`, by flags and by a file.

    Raises SettingsError where another file would be lost, SetupError where it cannot be written.
    """
    from glance.core.files import read_text, require_writable, write_text

    said = dict(_said(ctx, fields))
    title = f"{ctx.command_path} --config FILE takes these options; flags win."
    if not said:
        raise SettingsError(
            f"--save-config {path}: nothing is said that a file could keep",
            hint=f"give options as well: {ctx.command_path} --help",
        )
    if said.get("set"):
        from glance.training.simpletuner.config import parse_overrides

        pairs = said["set"] if isinstance(said["set"], list) else [said["set"]]
        parse_overrides(pairs)  # a token among them is kept nowhere
    text = render_document(said, title)
    require_writable(path, "--save-config")
    if path.exists():
        try:
            is_ours = is_rendered(read_text(path), title)
        except (OSError, ValueError):  # a folder; bytes that are no text
            is_ours = False
        if not is_ours:
            raise SettingsError(
                f"--save-config {path}: it is there already, and not as --save-config wrote it",
                hint="give another name",
            )
    try:
        write_text(path, text)
    except OSError as exc:
        reason = reason_of(exc)
        raise SetupError(f"--save-config {path}: {reason}", hint="give another place") from exc


def _said(ctx: typer.Context, fields: Mapping[str, Field]) -> Iterator[tuple[str, Any]]:
    headings = [*Group, None]
    for param in sorted(ctx.command.params, key=lambda one: headings.index(heading(one))):
        source = ctx.get_parameter_source(param.name)
        if param.name in _OF_ONE_COMMAND or source is None or source.name not in _SAID:
            continue
        value, field = ctx.params[param.name], fields.get(param.name)
        if field is None:
            yield _key(param), str(value) if isinstance(value, Path) else value
        elif not field.flag.once and (written := field.say(field.take(value))) is not None:
            is_one = isinstance(written, list) and len(written) == 1
            yield field.key, written[0] if is_one else written


def _read(
    ctx: typer.Context, path: Path, fields: Mapping[str, Field], elsewhere: Collection[str]
) -> dict[str, Any]:
    said = read_document(path, "--config")
    params = {
        name.lstrip("-"): param
        for param in ctx.command.params
        if param.name not in (CONFIG, SAVE)
        for name in param.opts
    }
    known: dict[str, Any] = {name.lstrip("-"): name for name in elsewhere} | params
    found, problems = match_keys(said, known, owner=ctx.command_path)
    values: dict[str, Any] = {}
    for key, param in found.items():
        if isinstance(param, str) or said[key] is None:
            continue
        try:
            is_several = param.multiple or param.nargs == -1
            typed = flatten(key, said[key], fields.get(param.name), is_several=is_several)
            for text in typed if isinstance(typed, list) else [typed]:
                check_value(ctx.command, param, key, text)
            param.process_value(ctx, typed)  # again when its turn comes: here all are looked at
        except (GlanceError, typer.TyperException) as exc:
            refusal = exc if isinstance(exc, GlanceError) else translate(exc)
            problems += [placed(said, key, problem) for problem in refusal.problems]
        else:
            values[param.name] = typed
    if problems:
        raise SettingsError(problems)
    return values


def _key(param: Any) -> str:
    return str(max(param.opts, key=len)).lstrip("-")
