import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from glance import __version__

COMMANDS = (
    *("demo", "check", "schedule", "train", "infer", "compare", "info", "import"),
    *("export comfyui", "export diffusers", "export hub"),
)


def test_version_is_one_line_on_stdout(glance: Callable) -> None:
    done = glance("--version")

    assert (done.code, done.out, done.err) == (0, f"glance {__version__}\n", "")


def test_help_names_every_command(glance: Callable) -> None:
    done = glance("--help")

    assert done.code == 0
    assert [name for name in COMMANDS if f"\n  {name.split()[0]} " not in done.out] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_shows_an_example(glance: Callable, command: str) -> None:
    done = glance(*command.split(), "--help")

    assert done.code == 0
    assert f"glance {command}" in done.out.split("Options:")[0].split("\n", 1)[1]


@pytest.mark.parametrize(
    "arguments",
    [("no-such-command",), ("train",), ("train", "--image"), ("check", "--device", "x")],
)
def test_wrong_usage_is_exit_2(glance: Callable, arguments: tuple[str, ...]) -> None:
    assert glance(*arguments).code == 2


def test_an_error_is_one_document_with_json(glance: Callable) -> None:
    done = glance("check", "none.png", "--caption", "x", "--json")

    assert done.code == 4
    assert done.document["error"]["exit_code"] == 4
    assert "none.png" in done.document["error"]["problems"][0]["message"]
    assert done.err.startswith("error: ")


def test_a_file_name_that_is_no_text_is_shown_escaped(glance: Callable) -> None:
    done = glance("check", os.fsdecode(b"\xff.png"), "--caption", "x")

    assert done.code == 4
    assert r"\udcff.png" in done.err


def test_a_reader_that_leaves_is_no_traceback() -> None:
    script = f"{sys.executable} -m glance schedule | true"

    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)

    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
