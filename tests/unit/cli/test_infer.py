"""What `glance infer` says before it loads anything; sampling is in tests/torch."""

from pathlib import Path

from fakes.commands import Glance
from fakes.pairs import write_run


def test_without_any_run_the_train_command_is_named(invoke: Glance) -> None:
    for command in (("infer", "--prompt", "x"), ("compare",)):
        done = invoke(*command)
        assert done.code == 4
        assert "there is no finished run under ./runs" in done.err
        assert "glance train --image" in done.err


def test_a_model_that_cannot_be_had_is_refused_before_anything_is_imported(glance: Glance) -> None:
    write_run(Path("runs/cat"), model="acme/absent")

    done = glance("infer", "--prompt", "x", PYTHONPROFILEIMPORTTIME="1")

    assert done.code == 3
    assert "model acme/absent is not in the cache, and HF_HUB_OFFLINE forbids" in done.err
    assert "| torch" not in done.err


def test_what_lies_between_the_flags_is_said_at_once(invoke: Glance) -> None:
    write_run(Path("runs/cat"))

    both = invoke("infer", "--prompt", "x", "--slow-only", "--no-lora")
    nothing = invoke("infer")

    assert (both.code, nothing.code) == (2, 2)
    assert "--slow-only and --no-lora exclude each other" in both.err
    assert 'say it: --prompt "..." or --prompt-file FILE' in nothing.err


def test_a_dry_run_is_a_table_for_people(invoke: Glance) -> None:
    write_run(Path("runs/cat"))
    size = ("--width", "64", "--height", "32", "--device", "cpu")

    done = invoke("infer", "--prompt", "a hill", "--count", 25, *size, "--dry-run", "--quiet")

    lines = done.out.splitlines()
    assert (done.code, done.err) == (0, "")
    assert lines[0].split() == ["model", "acme/tiny", "(flux)"]
    assert "slow LoRA  runs/cat/output/glance-slow/pytorch_lora_weights.safetensors" in lines
    assert "images     25, 10 steps each" in lines
    assert lines[-2].split()[:4] == ["runs/cat/images/a-hill-19.png", "64x32", "seed", "19"]
    assert lines[-1].strip() == "... and 5 more"
    assert not Path("runs/cat/images").exists()
