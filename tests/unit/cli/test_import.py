"""`glance import` as users meet it: its two streams, its exit codes, and what follows it."""

import json
import shlex
from pathlib import Path

import pytest
from fakes.commands import Glance, states
from fakes.guide import finish, write_guide
from fakes.pairs import write_lora
from fakes.trainer import FakeSimpleTuner

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


def test_it_prints_the_train_line_and_explains_on_stderr(glance: Glance) -> None:
    write_guide(max_train_steps=5, lora_rank=4)

    done = glance("import", "guide", "--device", "cpu")

    assert (done.code, done.out) == (
        0,
        "glance train --image guide/data/glance.png --family flux --model acme/tiny "
        "--run runs/glance --steps 5 --rank 4 --resolution 64 --device cpu\n",
    )
    lines = done.err.splitlines()
    assert lines[0].startswith("data backend=simple: a local backend and a text-embedding cache (")
    assert any(line.startswith("no learning_rate: 0.0005, the method's") for line in lines)
    assert lines[-1] == "made runs/glance, ready to train with:"


def test_that_line_trains_the_prepared_run(glance: Glance, simpletuner: FakeSimpleTuner) -> None:
    write_guide(max_train_steps=5, lora_rank=4, lora_alpha=8)
    line = glance("import", "guide", "--device", "cpu", "--quiet").out

    done = glance(*shlex.split(line)[1:])

    assert (done.code, done.out) == (0, "runs/glance\n"), done.err
    assert states(Path("runs/glance/glance.json")) == ["done", "done"]
    assert simpletuner.starts[0]["config"]["lora_alpha"] == 8.0


def test_dry_run_says_the_same_and_touches_nothing(glance: Glance) -> None:
    write_guide()

    done = glance("import", "guide", "--device", "cpu", "--dry-run")

    assert done.code == 0
    assert done.err.endswith("would make runs/glance, ready to train with:\n")
    assert not Path("runs").exists()


def test_json_says_what_becomes_of_each_option(glance: Glance) -> None:
    write_guide(seed=0)

    done = glance("import", "guide", "--device", "cpu", "--json", "--quiet")

    assert (done.code, done.err) == (0, "")
    assert (done.document["run"], done.document["finished"]) == ("runs/glance", False)
    assert done.document["train"][:2] == ["glance", "train"]
    assert {
        "option": "seed",
        "says": "0",
        "does": "1",
        "why": "SimpleTuner takes 0 for 'no seed'",
    } in done.document["remarks"]


def test_trained_configs_print_the_finished_run(glance: Glance) -> None:
    finish(write_guide(lora_rank=2, lora_alpha=8))

    done = glance("import", "guide")

    assert (done.code, done.out) == (0, "runs/glance\n")
    assert "slow: lora_B times 4: alpha 8, rank 2, in the config that it was" in done.err
    assert done.err.endswith('next: glance infer --run runs/glance --prompt "..."\n')


def test_all_problems_are_told_with_exit_code_4(glance: Glance) -> None:
    write_guide(model_type="full", max_train_steps="many")

    done = glance("import", "guide", "--json")

    assert done.code == 4
    assert len(done.document["error"]["problems"]) == 2
    assert not Path("runs").exists()


def test_runs_show_says_where_it_came_from_and_what_is_not_known(
    glance: Glance, imported: Path
) -> None:
    done = glance("runs", "show", imported)

    assert done.code == 0
    assert "imported: slow from slow.safetensors, lora_B times 1: --alpha 2" in done.out
    assert "settings: rank 2, elsewhere; not known: also_resolutions, crops" in done.out
    assert "60 steps" not in done.out


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
    assert 'hint: say what to paint: --prompt "..."' in done.err
