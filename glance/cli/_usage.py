"""What Typer refuses, in our words and with our exit codes; and the one rule for repeated flags."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import typer

from glance.core.errors import (
    GlanceError,
    InputError,
    Problem,
    UsageError,
    as_typed,
    describe_fault,
)

_ONE_OF: Final = " is not one of "
_NUMBERED: Final = re.compile(r"(--[a-z-]+) ([^ :]+): ")


def translate(refusal: typer.TyperException) -> GlanceError:
    """Return Typer's refusal as ours: a value that cannot be used, or flags that are wrong."""
    faults = _faults(refusal)
    if isinstance(refusal, typer.BadParameter) and refusal.param is not None and faults:
        return _refuse_value(refusal.param, faults[0])
    context = getattr(refusal, "ctx", None)
    text = refusal.format_message().strip().rstrip(".")
    hint = f"see {context.command_path} --help" if context is not None else "see glance --help"
    return UsageError(text[:1].lower() + text[1:], hint=hint)


def respell(problem: Problem, words: Sequence[str]) -> Problem:
    """Return a problem with a number as it was typed: 2.50, where Python says 2.5."""
    found = _NUMBERED.match(problem.message)
    if found is None:
        return problem
    flag, said = found[1], found[2]
    typed = next((one for one in _values(words, (flag,)) if _is_same_number(one, said)), said)
    return replace(problem, message=f"{flag} {typed}{problem.message[found.end(2) :]}")


def _is_same_number(one: str, other: str) -> bool:
    with suppress(ValueError):
        return float(one) == float(other) or (one.lower(), other.lower()) == ("nan", "nan")
    return False


def refuse_repeated(command: Any, ctx: Any, args: Sequence[str]) -> None:
    """Raise UsageError for a flag that holds one value and is given twice.

    Typer keeps the last of several and says nothing: a training would run for an hour on an image
    that is not the one that was meant.
    """
    if ctx.resilient_parsing:  # somebody presses Tab
        return
    _, _, order = command.make_parser(ctx).parse_args(args=list(args))
    for option in dict.fromkeys(order):
        holds_one = option.param_type_name == "option" and not (option.is_flag or option.multiple)
        if holds_one and order.count(option) > 1:
            flag = _name(option)
            given = ", ".join(_values(args, option.opts)) or f"{order.count(option)} values"
            raise UsageError(
                f"{flag} is given {order.count(option)} times, and holds one value: {given}",
                hint=f"keep one {flag}; see {ctx.command_path} --help",
            )


def _values(args: Sequence[str], flags: Sequence[str]) -> Iterator[str]:
    """Yield what follows a flag, as it was typed."""
    for place, word in enumerate(args):
        name, equals, value = word.partition("=")
        if name in flags and equals:
            yield value
        elif word in flags and place + 1 < len(args):
            yield args[place + 1]


def check_value(command: Any, option: Any, key: str, text: str) -> None:
    """Raise InputError for a text of a file that is no value of an option, `key` in that file."""
    flag = _name(option)
    if not text.strip() and flag != _MAY_BE_EMPTY:
        raise InputError(f"{key} is empty", hint="give a value, or leave it out")
    if "\0" in text:
        raise InputError(f"{key} holds a NUL character", hint="leave it out")
    takes_file = _PROMPT_FILE in _options(command)
    problems = tuple(_misunderstood(flag, text, takes_file=takes_file))
    if problems:
        raise InputError(problems)


def _faults(refusal: typer.TyperException) -> list[dict[str, Any]]:
    """Return what pydantic, with which Typer reads values, found wrong."""
    errors = getattr(refusal.__cause__, "errors", None)
    return [] if errors is None else list(errors())


def _refuse_value(param: Any, fault: dict[str, Any]) -> InputError:
    flag, said = _name(param), describe_fault(fault)
    _, is_choice, choices = said.partition(_ONE_OF)
    if is_choice:
        names = choices.rstrip(".").replace("'", "")
        return InputError(
            f"{flag} {fault['input']}: it must be one of {names}",
            hint=f"{flag} {names.partition(',')[0]}, for example",
        )
    return InputError(
        f"{flag} {fault['input']}: {said}", hint=f"{flag} {_example(param, fault)}, for example"
    )


def _example(param: Any, fault: dict[str, Any]) -> Any:
    """Return a value that works: the usual one, that of the setting, or the nearest allowed."""
    if isinstance(param.default, int | float) and not isinstance(param.default, bool):
        return as_typed(param.default)
    from glance.runs.settings import Teacher, TrainSettings
    from glance.sampling.settings import SampleSettings

    for settings in (SampleSettings, TrainSettings, Teacher):
        for field in settings.model_fields:
            if settings.flag(field) in param.opts and settings.example(field) is not None:
                return settings.example(field)
    bounds = fault.get("ctx") or {}
    return bounds.get("ge", bounds.get("le", 1))


def _name(param: Any) -> str:
    """Return the flag, or what an argument is called in the usage line."""
    if param.param_type_name == "option":
        return str(max(param.opts, key=len))
    return str(param.name)


_TEXTS: Final = ("--caption", "--prompt", "--negative-prompt")
_PROMPT_FILE: Final = "--prompt-file"
_MAY_BE_EMPTY: Final = "--negative-prompt"
_UNSET: Final = "is it a variable of the shell that is not set?"


def check_words(group: Any, words: Sequence[str]) -> None:
    """Raise InputError for all words of a command line that are no values.

    `group` is the Click group that they are for. What it cannot parse, it says itself.
    """
    problems = tuple(_problems(group, words))
    if problems:
        raise InputError(problems)


def _problems(command: Any, words: Sequence[str]) -> Iterator[Problem]:
    options = _options(command)
    rest = list(reversed(words))
    while rest:
        word = rest.pop()
        name, equals, value = word.partition("=")
        option = options.get(name)
        if word == "--":  # only arguments follow
            options = {}
        elif word in getattr(command, "commands", {}):
            command = command.commands[word]
            options = _options(command)
        elif option is None:
            yield from _doubts("an argument", word, "give a value")
        elif equals or _takes_next(option, rest):
            value = value if equals else rest.pop()
            remedy = "give a value" if option.required else f"give a value, or leave {name} out"
            if value in options and not equals:
                yield Problem(f"{name} has no value, {value} follows it: {_UNSET}", remedy)
            else:
                yield from _doubts(name, value, remedy)
                yield from _misunderstood(name, value, takes_file=_PROMPT_FILE in options)


def _options(command: Any) -> Mapping[str, Any]:
    return {
        name: parameter
        for parameter in command.params
        if parameter.param_type_name == "option"
        for name in parameter.opts
    }


def _takes_next(option: Any, rest: Sequence[str]) -> bool:
    """Whether the next word, the last of `rest`, is the option's value."""
    may_be_left_out = str(option.metavar).startswith("[")  # --plot [FILE]
    return not option.is_flag and bool(rest) and not (may_be_left_out and rest[-1].startswith("-"))


def _doubts(name: str, value: str, remedy: str) -> Iterator[Problem]:
    if value.endswith("\r"):
        yield Problem(
            f"{name} {value!r} ends with a carriage return: is it in a script with Windows line "
            "ends?",
            "save the script with Unix line ends",
        )
    elif not value.strip() and name != _MAY_BE_EMPTY:
        yield Problem(f"{name} is empty: {_UNSET}", remedy)


def _misunderstood(name: str, value: str, *, takes_file: bool) -> Iterator[Problem]:
    if name not in _TEXTS or not value.strip():
        return
    from glance.runs.caption import name_for_text
    from glance.sampling.prompts import meant_elsewhere

    problem = name_for_text(name, value, takes_file=takes_file)
    if problem is not None:
        yield problem
    elif name == "--prompt" and (fault := meant_elsewhere(value.strip())) is not None:
        yield Problem(f"{name}: {fault}", "leave it out: seed, size and guidance have flags")
