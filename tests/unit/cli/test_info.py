import os
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.pairs import glance_header, write_lora, write_run

from glance.core.phase import Phase
from glance.models.lora.file import hash_data, hash_file, read_header

FILE = Path("x.safetensors")


def test_a_lora_is_shown_whole(glance: Callable) -> None:
    write_lora(FILE, glance_header(Phase.SLOW, **{"modelspec.title": "A cat", "format": "pt"}))

    done = glance("info", FILE)

    sha256 = hash_file(FILE)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "x.safetensors: LoRA of 1 layer, rank 2, F32, 32 parameters, 568 bytes",
        f"  SHA-256    {sha256}",
        f"  AutoV2     {sha256[:10]}",
        f"  AutoV3     {hash_data(read_header(FILE))[:12]} (tensors alone)",
        "  keys       diffusers",
        "  scale      1 (glance folded 4.0 into lora_B)",
        "  family     flux",
        "  phase      slow",
        "  timesteps  1000, 979.192, 957.516, 934.917, 911.335",
        "ModelSpec:",
        "  title  A cat",
        "other metadata:",
        "  format  pt",
    ]


def test_json_is_one_document(glance: Callable) -> None:
    write_lora(FILE, {"a": "\x1b[2J"})

    done = glance("info", FILE, "--json")

    assert (done.code, done.err) == (0, "")
    assert done.document["metadata"] == {"a": "\x1b[2J"}
    assert "\x1b" not in done.out


def test_problems_leave_exit_code_0(glance: Callable) -> None:
    write_lora(FILE, fill=0.0)

    done = glance("info", FILE)

    assert done.code == 0
    assert "  problem: every lora_B (up) is zero: it changes nothing" in done.out


@pytest.mark.parametrize("content", [None, b"", b"no LoRA"])
def test_what_cannot_be_read_is_exit_4(glance: Callable, content: bytes | None) -> None:
    if content is not None:
        FILE.write_bytes(content)

    done = glance("info", FILE, "--json")

    assert done.code == 4
    assert "x.safetensors" in done.document["error"]["problems"][0]["message"]


def test_a_pipe_is_not_waited_for(glance: Callable) -> None:
    os.mkfifo("x.png")

    assert glance("info", "x.png").err.startswith("error: x.png cannot be read: it is a named pipe")


def test_a_run_ends_with_what_to_do(glance: Callable) -> None:
    write_run(Path("runs/a b"))

    done = glance("info", "runs/a b")

    assert done.code == 0
    assert done.out.startswith("runs/a b: run, slow done, fast done\n")
    assert "next: glance infer --run 'runs/a b' --prompt \"...\"\n" in done.out


def test_looking_changes_nothing(glance: Callable) -> None:
    run = write_run(Path("runs/x"))
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}

    glance("info", "runs/x")

    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before
