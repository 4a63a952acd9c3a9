"""What `glance infer` refuses before it loads anything; the rest is in tests/torch."""

from collections.abc import Callable
from pathlib import Path

from glance.run import RunFolder


def test_without_any_run_the_train_command_is_named(glance: Callable) -> None:
    done = glance("infer", "--prompt", "x")

    assert done.code == 4
    assert "there is no finished run under ./runs" in done.err
    assert "glance train --image" in done.err


def test_a_folder_that_is_no_run_is_refused(glance: Callable) -> None:
    done = glance("infer", "--prompt", "x", "--run", "nowhere")

    assert done.code == 4
    assert "not a run folder: nowhere" in done.err


def test_a_damaged_manifest_is_refused(glance: Callable) -> None:
    RunFolder(Path("r")).manifest.parent.mkdir()
    Path("r/glance.json").write_text('{"schema_version": 1, "phases"')

    done = glance("infer", "--prompt", "x", "--run", "r")

    assert done.code == 4
    assert "it is damaged" in done.err


def test_a_run_and_loras_exclude_each_other(glance: Callable) -> None:
    assert glance("infer", "--prompt", "x", "--run", "r", "--slow-lora", "a").code == 2
    assert glance("infer", "--prompt", "x", "--slow-lora", "a").code == 2


def test_a_missing_lora_is_named(glance: Callable) -> None:
    done = glance("infer", "--prompt", "x", "--slow-lora", "a.safetensors", "--fast-lora", "b")

    assert done.code == 4
    assert "LoRA not found: a.safetensors" in done.err


def test_a_file_that_is_no_lora_is_refused(glance: Callable) -> None:
    Path("a.safetensors").write_bytes(b"not one")

    done = glance("infer", "--prompt", "x", "--slow-lora", "a.safetensors", "--fast-lora", "b")

    assert done.code == 4
