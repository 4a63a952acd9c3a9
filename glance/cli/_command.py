"""A command whose flags are the fields of its request, and its help under headings."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin

import typer
from typer.core import TyperCommand

from glance.core.options import Field, Group, build, declared

_WORDS: Final = {str: "TEXT", int: "INTEGER", float: "NUMBER", Path: "PATH"}
_ALL: Final = "--help-all"
_OTHERS: Final = "Options"  # the heading of what stands under no other


def takes[R](request: type[R]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command a flag for each declared field of `request`.

    The command takes the request first, made of what was typed; its other parameters are flags as
    Typer declares them.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        fields = {"_".join(field.path): field for field in declared(request)}
        first, *others = inspect.signature(command, eval_str=True).parameters.values()
        assert first.annotation is request

        def run(**values: Any) -> None:
            said = {one.path: _value(one, values.pop(name)) for name, one in fields.items()}
            command(build(request, said), **values)

        parameters = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                annotation=Annotated[_typer_type(field), _option(field)],
                default=_default(field),
            )
            for name, field in fields.items()
        ]
        others = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in others]
        every = [*parameters, *others]
        run.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in every}
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run

    return decorate


class Command(TyperCommand):
    """Its help has the options under the headings of Group; advanced ones in --help-all alone."""

    _shows_all = False

    def get_help_option_names(self, ctx: Any) -> list[str]:
        """Take --help-all for help, where there is more of it."""
        names = super().get_help_option_names(ctx)
        has_more = any(_heading(one) == Group.ADVANCED for one in self.params)
        return [*names, _ALL] if has_more else names

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Remember which help is asked for."""
        self._shows_all = _ALL in args
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then the options group by group."""
        parameters = self.get_params(ctx)
        arguments = [p.get_help_record(ctx) for p in parameters if p.param_type_name == "argument"]
        if any(arguments):
            with formatter.section("Arguments"):
                formatter.write_dl([record for record in arguments if record])
        options = [p for p in parameters if p.param_type_name == "option" and not p.hidden]
        for heading in (*Group, _OTHERS):
            some = [p for p in options if (_heading(p) or _OTHERS) == heading]
            if not some:
                continue
            with formatter.section(heading):
                if heading == Group.ADVANCED and not self._shows_all:
                    names = ", ".join(p.opts[0] for p in some)
                    formatter.write_text(f"{names}: see {_ALL}")
                else:
                    formatter.write_dl([p.get_help_record(ctx) for p in some])


def _heading(parameter: Any) -> str | None:
    heading: str | None = getattr(parameter, "rich_help_panel", None)
    return heading


def _option(field: Field) -> Any:
    flag = field.flag
    (kind, *_), _ = _kinds(field.type)
    kind = flag.choices or kind
    bounds = {"min": flag.least, "max": flag.most, "parser": flag.parse}
    return typer.Option(
        *field.names,
        help=flag.help,
        metavar=flag.kind or _WORDS.get(kind),
        rich_help_panel=flag.group.value,
        **{name: value for name, value in bounds.items() if value is not None},
    )


def _typer_type(field: Field) -> Any:
    (kind, *_), is_several = _kinds(field.type)
    kind = field.flag.choices or (str if field.flag.parse else kind)
    if is_several:
        return list[kind] | None  # type: ignore[valid-type]
    return kind | None if field.default is None else kind


def _kinds(hint: Any) -> tuple[list[Any], bool]:
    """Return the types of a field's value that a user can say, and whether it takes several."""
    several = get_origin(hint) is tuple
    inner = get_args(hint)[0] if several else hint
    union = get_args(inner) if get_origin(inner) in (Union, UnionType) else (inner,)
    return [one for one in union if one is not NoneType], several


def _default(field: Field) -> Any:
    if field.flag.off is not None:
        return False
    if field.default is MISSING:
        return inspect.Parameter.empty
    if field.default == ():
        return None
    return field.default if field.flag.choices is None else field.flag.choices(field.default)


def _value(field: Field, typed: Any) -> Any:
    if field.flag.off is not None:
        return not typed
    if field.flag.choices is not None:
        return typed.value
    return tuple(typed or ()) if _kinds(field.type)[1] else typed
