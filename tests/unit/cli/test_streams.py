"""Whatever stdin, stdout and stderr are: no traceback, and the exit code says what happened."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

GLANCE = f"{sys.executable} -m glance"


def shell(command: str, **options: object) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        check=False,
        **options,  # type: ignore[call-overload]
    )
    assert "Traceback" not in done.stderr, done.stderr
    result: subprocess.CompletedProcess[str] = done
    return result


@pytest.mark.parametrize("command", ["--version", "runs list", "runs list --json"])
def test_an_output_that_is_closed_is_no_fault(command: str) -> None:
    assert shell(f"{GLANCE} {command} >&-").returncode == 0
    assert shell(f"{GLANCE} {command} 2>&-").returncode == 0
    assert shell(f"{GLANCE} {command} <&-").returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_an_output_that_is_full_is_told() -> None:
    done = shell(f"{GLANCE} schedule > /dev/full")
    refused = shell(f"{GLANCE} info nowhere --json > /dev/full")

    assert (done.returncode, refused.returncode) == (3, 4)
    assert "error: the output cannot be written: No space left on device" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_what_cannot_be_said_ends_nothing() -> None:
    done = shell(f"{GLANCE} schedule --schedule auto --family flux 2> /dev/full")

    assert done.returncode in (0, 4)
    assert shell(f"{GLANCE} info nowhere 2> /dev/full").returncode == 4


def test_a_working_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    python = shutil.which(sys.executable) or sys.executable

    done = shell(f'cd "{folder}" && rmdir "{folder}" && {python} -m glance runs list')

    assert done.returncode == 3
    assert "error: the folder that you are in is gone\n  hint: cd to another one" in done.stderr


def test_ctrl_c_before_anything_has_begun_is_one_document() -> None:
    """As if it came while glance imports."""
    early = (
        "import sys, builtins\n"
        "from glance.cli import main\n"
        "real = builtins.__import__\n"
        "def interrupted(name, *rest):\n"
        "    if name == 'glance.cli._app':\n"
        "        raise KeyboardInterrupt\n"
        "    return real(name, *rest)\n"
        "builtins.__import__ = interrupted\n"
        "sys.argv = ['glance', 'train', '--json']\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", early], capture_output=True, text=True, check=False, env=os.environ
    )

    assert (done.returncode, done.stderr) == (130, "")
    assert '"exit_code": 130' in done.stdout
