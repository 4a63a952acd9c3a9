"""`--config` and `--save-config`: a file says what flags say, and flags win."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from fakes.commands import TRAIN, Glance
from fakes.pairs import write_run

SETTINGS = """\
image: cat.png
model: acme/tiny
device: cpu
steps: 5
rank: 4
resolution: 64
lr: 5e-4
slow_timesteps: [1000, 0.9e3]
fast-timesteps: 0.5e3
set: {lora_dropout: 0.1}
compare: no
seed: null
"""
SAID = ("--lr", "5e-4", "--slow-timesteps", "1000,0.9e3", "--fast-timesteps", "0.5e3")
SAME = (*TRAIN, *SAID, "--set", "lora_dropout=0.1")
TITLE = "# glance train --config FILE takes these options; flags win.\n"


def write(text: str) -> Path:
    path = Path("pair.yaml")
    path.write_text(text)
    return path


@pytest.mark.usefixtures("pair", "simpletuner")
def test_a_file_says_what_flags_say_and_flags_win(invoke: Glance) -> None:
    write(SETTINGS)
    ends = ("--dry-run", "--json")

    by_file = invoke("train", "--config", "pair.yaml", *ends)
    mixed = invoke("train", "--steps", "7", "--config", "pair.yaml", "--lr", "1e-3", *ends)

    assert by_file == invoke(*SAME, *ends)
    assert by_file.code == 0
    changed = [{"5": "7", "5e-4": "1e-3"}.get(word, word) for word in SAME]
    assert mixed == invoke(*changed, *ends)


@pytest.mark.usefixtures("pair", "simpletuner")
def test_what_is_said_is_saved_and_says_the_same(invoke: Glance) -> None:
    ends = ("--dry-run", "--json", "--quiet")
    first = invoke(*SAME, "--restart", "--compare", *ends, "--save-config", "pair.yaml")
    saved = Path("pair.yaml").read_text()

    assert (first.code, first.err) == (0, "")
    assert saved == TITLE + (
        "image: cat.png\nresolution: '64'\nmodel: acme/tiny\nsteps: 5\nrank: 4\n"
        "learning-rate: 0.0005\nset: lora_dropout=0.1\nslow-timesteps: 1000,0.9e3\n"
        "fast-timesteps: 0.5e3\ndevice: cpu\ncompare: true\n"
    )  # neither defaults nor what is meant for one command: --restart, --dry-run, --json
    again = invoke("train", "--config", "pair.yaml", *ends, "--save-config", "pair.yaml")
    assert again == invoke(*SAME, "--compare", *ends)
    assert Path("pair.yaml").read_text() == saved


@pytest.mark.usefixtures("pair", "simpletuner")
def test_saving_replaces_what_it_wrote_and_nothing_else(invoke: Glance) -> None:
    command = (*TRAIN, "--dry-run", "--save-config")
    assert invoke(*command, "ours.yaml").err.startswith("saved: glance train --config ours.yaml\n")
    ours = Path("ours.yaml")
    Path("noted.yaml").write_text(ours.read_text() + "# my best one\n")
    Path("folder").mkdir()

    ours.write_text(ours.read_text().replace("steps: 5", "steps: 6"))
    assert invoke(*command, "ours.yaml").code == 0
    assert "steps: 5\n" in ours.read_text()
    for name in ("noted.yaml", "cat.png", "folder"):
        done = invoke(*command, name)
        assert done.code == 4
        assert f"--save-config {name}: it is there already" in done.err
    assert Path("noted.yaml").read_text().endswith("# my best one\n")
    assert "nothing is said" in invoke("infer", "--save-config", "x.yaml").err
    assert invoke(*command, "cat.png/x.yaml").code == 3


def test_all_that_is_wrong_is_said_at_once_with_its_line(invoke: Glance) -> None:
    write(
        "lerning_rate: 1\nsteps: 1:30\nphase: fas\nrank: [1, 2]\nlr: 1\nlearning-rate: 2\n"
        "device: tpu\nstop-within: -1\nrestart: maybe\ncaption: no.txt\nmodel: ''\nset: {a: [1]}\n"
        'run: "a\\0b"\nconfig: other.yaml\n'
    )

    done = invoke("train", "--config", "pair.yaml", "--json")

    assert done.code == 4
    said = {
        int(line.partition(":")[0]): (text, problem["hint"])
        for problem in done.document["error"]["problems"]
        for line, _, text in [problem["message"].removeprefix("pair.yaml, line ").partition(": ")]
    }
    assert said == {
        1: ("lerning_rate is no option of glance train", "write learning-rate, or leave it out"),
        2: ("steps 1:30: it must be a whole number", "steps: 60, for example"),
        3: ("phase fas: it must be one of both, slow, fast", "phase: both, for example"),
        4: ("rank holds one value, not a list", "keep one of them"),
        6: ("learning-rate is the same as lr, and said twice", "keep one"),
        7: ("device tpu: it must be one of auto, cuda, mps, cpu", "device: auto, for example"),
        8: ("stop-within -1: it must be at least 0", "stop-within: 60, for example"),
        9: ("restart maybe: it must be true or false", said[9][1]),
        10: (
            "caption 'no.txt' is a file's name, and would be taken for the text; there is no such "
            "file",
            'give the text itself: --caption "..."',
        ),
        11: ("model is empty", "give a value, or leave it out"),
        12: ("a: a text or a number belongs there, no list, mapping or null", None),
        13: ("run holds a NUL character", "leave it out"),
        14: ("config is no option of glance train", said[14][1]),
    }


@pytest.mark.parametrize(
    ("command", "settings"),
    [
        ("infer --prompt a -p b --seed 1 --seed 2 --size 64x32 --no-metadata --slow-only",
         {"prompt": ["a", "b"], "seed": [1, 2], "size": "64x32", "no-metadata": True,
          "slow-only": True}),
        ("compare -p a --count 2 --no-worth --offload full",
         {"p": "a", "count": 2, "no_worth": "yes", "offload": "full"}),
        ("infer -p a --guidance 3.5,1 --schedule auto --slow-steps 3 --negative-prompt ''",
         {"p": "a", "guidance": [3.5, 1], "schedule": "auto", "slow-steps": 3,
          "negative-prompt": ""}),
    ],
)  # fmt: skip
def test_every_command_with_a_request_takes_one(
    invoke: Glance, command: str, settings: dict[str, Any]
) -> None:
    write_run(Path("runs/cat"))
    write(json.dumps(settings))
    ends = ("--device", "cpu", "--dry-run", "--json")
    words = shlex.split(command)

    by_flags = invoke(*words, *ends)
    assert invoke(words[0], "--config", "pair.yaml", *ends) == by_flags
    saved = invoke(*words, *ends, "--quiet", "--save-config", "saved.yaml")
    assert saved.out == by_flags.out
    assert invoke(words[0], "--config", "saved.yaml", "--dry-run", "--json") == by_flags


@pytest.mark.usefixtures("pair")
def test_who_asks_for_a_part_of_it_takes_the_whole_file(invoke: Glance) -> None:
    write(SETTINGS.replace("compare: no\n", ""))

    assert "fit to train on: cat.png" in invoke("check", "--config", "pair.yaml").out
    write("stepz: 5\n")
    done = invoke("check", "cat.png", "--config", "pair.yaml")
    assert "line 1: stepz is no option of glance check\n  hint: write steps" in done.err


def test_help_and_completion_read_no_file(invoke: Glance) -> None:
    assert invoke("train", "--help", "--config", "missing.yaml").code == 0
    done = invoke("train", "--config", "missing.yaml")
    assert done.err == (
        "error: --config missing.yaml: No such file or directory\n"
        "  hint: give --config a file; --save-config writes one\n"
    )
