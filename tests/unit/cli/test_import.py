"""`glance import` as users meet it: its two streams, its exit codes, and what follows it."""

from pathlib import Path

import pytest
from fakes.commands import Glance
from fakes.pairs import write_lora

PAIR = ("--slow-lora", "slow.safetensors", "--fast-lora", "fast.safetensors", "--alpha", 2)
KNOWN = ("--model", "acme/tiny", "--schedule", "seed")
RUN = Path("runs/theirs")


@pytest.fixture(autouse=True)
def _loras() -> None:
    write_lora(Path("slow.safetensors"), fill=1.0)
    write_lora(Path("fast.safetensors"), fill=2.0)


@pytest.fixture
def imported(invoke: Glance) -> None:
    """A finished run of a pair whose picture is not known."""
    done = invoke("import", *PAIR, *KNOWN, "--run", RUN)
    assert (done.code, done.out) == (0, f"{RUN}\n"), done.err


def test_dry_run_says_the_same_and_touches_nothing(invoke: Glance) -> None:
    done = invoke("import", *PAIR, *KNOWN, "--dry-run")

    assert (done.code, done.out) == (0, "runs/imported\n")
    assert "slow: lora_B times 1: --alpha 2\n" in done.err
    assert done.err.endswith("would make runs/imported, a finished run\n")
    assert not Path("runs").exists()


def test_json_says_what_was_decided(invoke: Glance) -> None:
    done = invoke("import", *PAIR, *KNOWN, "--run", "again", "--json", "--quiet")

    assert done.code == 0
    assert set(done.document) == {
        *("run", "finished", "family", "model", "schedule", "loras", "unknown", "warnings")
    }
    assert (done.document["run"], done.document["finished"]) == ("again", True)
    assert done.document["loras"]["slow"]["rank"] == 2


def test_all_problems_are_told_at_once(invoke: Glance) -> None:
    done = invoke("import", *PAIR, "--json")

    model, lists = (problem["message"] for problem in done.document["error"]["problems"])
    assert done.code == 4
    assert "neither file says which model" in model
    assert "do not say which timesteps" in lists
    assert "--schedule paper (the official code's for FLUX.1)" in done.err
    assert not Path("runs").exists()


@pytest.mark.usefixtures("imported", "pair")
def test_the_other_commands_know_where_the_run_came_from(invoke: Glance) -> None:
    shown = invoke("runs", "show", RUN).out
    planned = invoke("infer", "--run", RUN, "--prompt", "x", "--dry-run", "--json")
    compared = invoke("compare", "--run", RUN)
    small = ("--model", "acme/tiny", "--resolution", 64, "--device", "cpu")
    trained = invoke("train", "--image", "cat.png", "--run", RUN, *small, "--restart", "--dry-run")

    assert "imported: slow from slow.safetensors, lora_B times 1: --alpha 2" in shown
    assert "\n  rank        2\n  not known   also_resolutions, crops, " in shown
    assert "\n  steps" not in shown
    assert planned.code == 0, planned.err
    assert "886.7053" in planned.out or "0.8867053" in planned.out
    assert (compared.code, trained.code) == (4, 4)
    assert 'hint: say what to generate: --prompt "..."' in compared.err
    assert "holds a pair that was imported" in trained.err
