"""`glance import` as users meet it: its two streams, its exit codes, and what follows it."""

import json
from pathlib import Path

import pytest
from fakes.commands import Glance
from fakes.pairs import write_lora

pytest_plugins = ["fakes.plugin"]

PAIR = ("--slow-lora", "slow.safetensors", "--fast-lora", "fast.safetensors", "--alpha", 2)
KNOWN = ("--model", "acme/tiny", "--schedule", "seed")


@pytest.fixture
def imported(glance: Glance) -> Path:
    """A finished run of a pair whose picture is not known."""
    write_lora(Path("slow.safetensors"), fill=1.0)
    write_lora(Path("fast.safetensors"), fill=2.0)
    done = glance("import", *PAIR, *KNOWN, "--run", "runs/theirs")
    assert (done.code, done.out) == (0, "runs/theirs\n"), done.err
    return Path("runs/theirs")


def test_dry_run_says_the_same_and_touches_nothing(glance: Glance) -> None:
    write_lora(Path("slow.safetensors"), fill=1.0)
    write_lora(Path("fast.safetensors"), fill=2.0)

    done = glance("import", *PAIR, *KNOWN, "--dry-run")

    assert (done.code, done.out) == (0, "runs/imported\n")
    assert "slow: lora_B times 1: --alpha 2\n" in done.err
    assert done.err.endswith("would make runs/imported, a finished run\n")
    assert not Path("runs").exists()


def test_json_says_what_was_decided(glance: Glance, imported: Path) -> None:
    done = glance("import", *PAIR, *KNOWN, "--run", "again", "--json", "--quiet")

    assert done.code == 0
    assert set(done.document) == {
        *("run", "finished", "family", "model", "schedule", "loras", "unknown", "warnings")
    }
    assert (done.document["run"], done.document["finished"]) == ("again", True)
    assert done.document["loras"]["slow"]["rank"] == 2


def test_all_problems_are_told_with_exit_code_4(glance: Glance) -> None:
    write_lora(Path("slow.safetensors"))
    write_lora(Path("fast.safetensors"), fill=2.0)

    done = glance("import", *PAIR, "--json")

    assert done.code == 4
    assert len(done.document["error"]["problems"]) == 2
    assert not Path("runs").exists()


@pytest.mark.parametrize("arguments", [(), ("my-folder",), ("--slow-lora", "a")])
def test_what_is_no_pair_is_exit_code_2(glance: Glance, arguments: tuple[str, ...]) -> None:
    assert glance("import", *arguments).code == 2


def test_runs_show_says_where_it_came_from_and_what_is_not_known(
    glance: Glance, imported: Path
) -> None:
    done = glance("runs", "show", imported)

    assert done.code == 0
    assert "imported: slow from slow.safetensors, lora_B times 1: --alpha 2" in done.out
    assert "\n  rank        2\n  not known   also_resolutions, crops, " in done.out
    assert "\n  steps" not in done.out


def test_infer_takes_it_with_its_lists(glance: Glance, imported: Path) -> None:
    done = glance("infer", "--run", imported, "--prompt", "x", "--dry-run", "--json")

    assert done.code == 0, done.err
    assert "886.7053" in json.dumps(done.document) or "0.8867053" in json.dumps(done.document)


def test_training_in_it_is_refused(glance: Glance, imported: Path, pair: Path) -> None:
    small = ("--model", "acme/tiny", "--resolution", 64, "--device", "cpu")

    done = glance("train", "--image", pair, "--run", imported, *small, "--restart", "--dry-run")

    assert done.code == 4
    assert "holds a pair that was imported" in done.err


def test_comparing_it_asks_for_a_prompt(glance: Glance, imported: Path) -> None:
    done = glance("compare", "--run", imported)

    assert done.code == 4
    assert 'hint: say what to generate: --prompt "..."' in done.err
