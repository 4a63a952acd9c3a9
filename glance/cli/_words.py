"""What a shell hands over, before it is parsed: words that were hardly meant as they stand.

A variable that is not set leaves an empty word, or none; then the next option is taken for the
value. A script with Windows line ends leaves a carriage return. And a file's name is not its text.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from glance.core.errors import InputError, Problem

_TEXTS: Final = ("--caption", "--prompt", "--negative-prompt", "--sample-prompt")
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
            yield from _faults("an argument", word, "give a value")
        elif equals or _takes_next(option, rest):
            value = value if equals else rest.pop()
            remedy = "give a value" if option.required else f"give a value, or leave {name} out"
            if value in options and not equals:
                yield Problem(f"{name} has no value, {value} follows it: {_UNSET}", remedy)
            else:
                yield from _faults(name, value, remedy)
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


def _faults(name: str, value: str, remedy: str) -> Iterator[Problem]:
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
    from glance.dataset.caption import name_for_text
    from glance.sampling.prompts import meant_elsewhere

    problem = name_for_text(name, value, takes_file=takes_file)
    if problem is not None:
        yield problem
    elif name == "--prompt" and (fault := meant_elsewhere(value.strip())) is not None:
        yield Problem(f"{name}: {fault}", "leave it out: seed, size and guidance have flags")
