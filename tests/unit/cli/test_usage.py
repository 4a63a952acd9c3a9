"""Words that a shell leaves behind: empty ones, swallowed options, file names in place of texts."""

import shlex
from pathlib import Path

import pytest
import typer
from fakes.commands import Glance

from glance.cli import app
from glance.cli._usage import check_words
from glance.core.errors import InputError, Problem

UNSET = "is it a variable of the shell that is not set?"
COMMANDS = typer.main.get_command(app)


def refusals(line: str, *more: str) -> list[Problem]:
    try:
        check_words(COMMANDS, [*shlex.split(line), *more])
    except InputError as refusal:
        return list(refusal.problems)
    return []


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("train --image '' --model ' ' --run=", "--image --model --run"),
        ("check '' --caption ''", "'an argument' --caption"),
        ("check -- ''", "'an argument'"),
    ],
)
def test_an_empty_value_is_refused_wherever_it_stands(line: str, names: str) -> None:
    messages = [problem.message for problem in refusals(line)]

    for name in shlex.split(names):
        assert f"{name} is empty: {UNSET}" in messages


def test_it_is_said_before_anything_else_is(invoke: Glance) -> None:
    done = invoke("train", "--image", "", "--steps", "", "--json")

    assert done.code == 4
    assert done.document["error"]["problems"] == [
        {"message": f"--image is empty: {UNSET}", "hint": "give a value, or leave --image out"},
        {"message": f"--steps is empty: {UNSET}", "hint": "give a value, or leave --steps out"},
    ]


def test_every_option_of_every_command_is_held_to_it() -> None:
    def below(command: typer.core.TyperGroup | typer.core.TyperCommand, path: str) -> None:
        for parameter in command.params:
            if parameter.param_type_name == "option" and not parameter.is_flag:
                flag = parameter.opts[0]
                expected = [] if flag == "--negative-prompt" else [f"{flag} is empty: {UNSET}"]
                assert [one.message for one in refusals(f"{path} {flag} ''")] == expected
        for name, command_below in getattr(command, "commands", {}).items():
            below(command_below, f"{path} {name}")

    below(COMMANDS, "")


def test_an_option_is_no_value_of_the_one_before(invoke: Glance, pair: Path) -> None:
    done = invoke("train", "--image", "cat.png", "--caption", "--dry-run")

    assert done.code == 4
    assert done.err == (
        f"error: --caption has no value, --dry-run follows it: {UNSET}\n"
        "  hint: give a value, or leave --caption out\n"
    )


@pytest.mark.parametrize("words", [("x.png\r",), ("x.png", "--caption", "a fox\r")])
def test_windows_line_ends_of_a_script_are_named(words: tuple[str, ...]) -> None:
    [problem] = refusals("check", *words)

    assert problem.message.endswith(
        r"\r' ends with a carriage return: is it in a script with Windows line ends?"
    )


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("check cat.png --caption", "--caption \"$(cat 'my cap.txt')\""),
        ("infer --negative-prompt", "--negative-prompt \"$(cat 'my cap.txt')\""),
        ("infer --prompt", "--prompt-file 'my cap.txt'"),
        ("distill --prompt", "--prompt-file 'my cap.txt'"),
        ("export comfyui --prompt", "--prompt \"$(cat 'my cap.txt')\""),
    ],
)
def test_a_files_name_is_not_taken_for_its_text(line: str, hint: str) -> None:
    Path("my cap.txt").write_text("a grey circle")
    Path("caption").touch()
    option, told = line.split()[-1], "is a file's name, and would be taken for the text"

    assert refusals(line, "my cap.txt") == [Problem(f"{option} 'my cap.txt' {told}", hint)]
    assert [told in problem.message for problem in refusals(line, "caption")] == [True]


@pytest.mark.parametrize(
    "text", ["no.txt", "@no.txt", "./fox", "~/fox.caption", "cat.png", "captions/", "/data/fox"]
)
def test_nor_is_a_name_of_no_file(text: str) -> None:
    [problem] = refusals("check cat.png", f"--caption={text}")

    assert problem.message.startswith(f"--caption {text!r} is a file's name")
    assert problem.hint == 'give the text itself: --caption "..."'


@pytest.mark.parametrize(
    "line",
    [
        *(
            f"check x --caption '{text}'"
            for text in ("fox", "a fox.", "1/2", "fox, 3/4 view", "b/w")
        ),
        "infer --prompt -- --events - --slow-scale -1 --prompt --foo",
        "schedule --plot --family flux",
        "schedule --plot",
    ],
)
def test_what_only_resembles_a_name_or_an_option_is_taken(line: str) -> None:
    assert refusals(line) == []


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("a cat --ar 16:9", "'--ar 16:9' is an option of another program"),
        ('{"prompt": "a cat", "seed": 7}', "is JSON, and would be taken as words of the prompt"),
    ],
)
def test_what_other_programs_read_is_not_painted_as_words(prompt: str, told: str) -> None:
    [problem] = refusals("infer --prompt", prompt)

    assert told in problem.message
    assert problem.hint == "leave it out: seed, size and guidance have flags"
