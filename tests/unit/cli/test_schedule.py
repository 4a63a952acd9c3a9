"""`glance schedule`, as users type it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

SEED = {
    "slow": [1000.0, 979.1915, 957.5157, 934.9171, 911.3354],
    "fast": [886.7053, 745.0728, 562.9505, 320.0802, 20.0],
}
TABLE = """\
phase  step   timestep      sigma
 slow     1  1000.0000  1.0000000  ##############################
 slow     2   979.1915  0.9791915  #############################
 slow     3   957.5157  0.9575157  #############################
 slow     4   934.9171  0.9349171  ############################
 slow     5   911.3354  0.9113354  ###########################
 fast     1   886.7053  0.8867053  ###########################
 fast     2   745.0728  0.7450728  ######################
 fast     3   562.9505  0.5629505  #################
 fast     4   320.0802  0.3200802  ##########
 fast     5    20.0000  0.0200000  #
  end            0.0000  0.0000000
"""


def test_the_document_holds_both_lists_in_both_units(glance: Callable) -> None:
    document = glance("schedule", "--json").document

    assert document == {
        phase: {"timesteps": values, "sigmas": [value / 1000.0 for value in values]}
        for phase, values in SEED.items()
    }


def test_the_table_shows_every_step_and_the_source(glance: Callable) -> None:
    done = glance("schedule")

    assert done.out.split() == TABLE.split()
    assert "source: SimpleTuner's one-sample guide" in done.err


def test_the_paper_preset_is_fluxs_own(glance: Callable) -> None:
    document = glance("schedule", "--schedule", "paper", "--json").document

    assert document["fast"]["timesteps"] == [926.6473, 825.7017, 677.9868, 441.1997, 60.5503]


def test_another_size_than_the_lists_own_is_said(glance: Callable) -> None:
    assert "not 512x768" in glance("schedule", "--size", "512x768").err
    assert "note:" not in glance("schedule", "--size", "1024x1024").err


def test_own_lists_are_checked(glance: Callable) -> None:
    done = glance("schedule", "--slow-timesteps", "1000,900,950", "--fast-timesteps", "0.9,nan")

    assert done.code == 4
    assert "--fast-timesteps, value 2: nan is not a finite number" in done.err
    falls = "--slow-timesteps, value 3: 950 is not below --slow-timesteps, value 2 = 900"
    assert falls in done.err


@pytest.mark.parametrize("size", ["big", "0x64", "64", "9" * 5000 + "x64", "64x64x64"])
def test_a_size_that_is_none_is_a_bad_value(glance: Callable, size: str) -> None:
    done = glance("schedule", "--size", size)

    assert done.code == 4
    assert done.err.startswith(f"error: --size {size[:40]}: not width x height in pixels")


@pytest.mark.parametrize("schedule", ["seed", "auto"])
@pytest.mark.parametrize(("model", "code"), [("./nowhere", 3), ("nowhere", 3), ("acme/absent", 3)])
def test_a_model_that_is_not_there_is_refused_whatever_is_shown(
    glance: Callable, schedule: str, model: str, code: int
) -> None:
    done = glance("schedule", "--schedule", schedule, "--model", model)

    assert (done.code, done.out) == (code, "")
    assert model in done.err


def test_the_models_own_list_is_derived_for_the_size(glance: Callable) -> None:
    ours = glance("schedule", "--schedule", "auto", "--family", "qwen_image", "--json").document
    small = glance("schedule", "--schedule", "auto", "--size", "512x512")

    assert {phase: ours[phase]["timesteps"] for phase in ours} == SEED
    assert "of 50 steps of FLUX.1 at 512x512" in small.err


def test_the_numbers_of_steps_are_the_users(glance: Callable) -> None:
    counts = ("--slow-steps", "2", "--fast-steps", "3", "--teacher-steps", "20")

    document = glance("schedule", "--schedule", "auto", *counts, "--json").document

    assert (len(document["slow"]["timesteps"]), len(document["fast"]["timesteps"])) == (2, 3)


def test_own_is_what_diffusers_steps_at_that_number(glance: Callable) -> None:
    done = glance("schedule", "--schedule", "own", "--slow-steps", "1", "--fast-steps", "1")

    assert [line.split()[:3] for line in done.out.splitlines()[1:3]] == [
        ["slow", "1", "1000.0000"],
        ["fast", "1", "759.5109"],
    ]
    assert "what diffusers steps when asked for 2 steps of FLUX.1 at 1024x1024" in done.err


def test_own_steps_are_not_chosen_from_a_teachers(glance: Callable) -> None:
    done = glance("schedule", "--schedule", "own", "--teacher-steps", "50")

    assert done.code == 2
    assert "--teacher-steps 50 does not go with --schedule own" in done.err


def test_numbers_of_steps_do_not_go_with_given_lists(glance: Callable) -> None:
    done = glance("schedule", "--schedule", "paper", "--slow-steps", "3")

    assert done.code == 2
    assert "--slow-steps 3 does not go with --schedule paper, whose lists are given" in done.err


def test_what_is_printed_is_a_file_that_is_read(glance: Callable) -> None:
    Path("mine.json").write_text(glance("schedule", "--schedule", "paper", "--json").out)

    done = glance("schedule", "--schedule", "mine.json", "--json")

    assert done.document == json.loads(Path("mine.json").read_text())
    assert "source: the file mine.json" in done.err


def test_a_model_whose_scheduler_is_unknown_is_doubted_aloud(glance: Callable) -> None:
    done = glance("schedule", "--schedule", "auto", "--model", "acme/tiny")

    assert done.code == 0
    assert "model acme/tiny: its scheduler/scheduler_config.json cannot be read" in done.err


def test_an_unknown_name_lists_those_there_are(glance: Callable) -> None:
    done = glance("schedule", "--schedule", "best")

    assert done.code == 4
    assert "choose one of: guide, paper, auto, own, optimal, or a .json file" in done.err


def test_nobody_has_optimised_for_this_model(glance: Callable) -> None:
    done = glance("schedule", "--schedule", "optimal", "--slow-steps", "3")

    assert done.code == 4
    assert "none was optimised 3 slow steps for this model at 1024x1024" in done.err
    assert "glance schedule optimize --model" in done.err


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_it_is_drawn(glance: Callable, ending: str) -> None:
    done = glance("schedule", "--schedule", "auto", "--plot", f"x.{ending}")

    assert done.code == 0
    assert Path(f"x.{ending}").stat().st_size > 5000


def test_it_is_drawn_in_the_terminal(glance: Callable) -> None:
    plotted = glance("schedule", "--plot", PYTHONIOENCODING="utf-8").out
    both = glance("schedule", "--plot", "--json", PYTHONIOENCODING="utf-8").out

    assert "fast begins at sigma 0.8867, timestep 886.7" in plotted
    assert json.loads(both)["fast"]["timesteps"] == SEED["fast"]


def test_optimising_refuses_everything_at_once_before_any_model(glance: Callable) -> None:
    Path("there.json").write_text("{}")

    done = glance(
        *("schedule", "optimize", "--model", "acme/tiny", "--steps", "12"),
        *("--teacher-steps", "20", "--output", "there.json"),
    )

    assert done.code == 4
    assert "there.json is there already" in done.err
    assert "12 steps need a trajectory of at least 24" in done.err


def test_flags_before_optimize_are_not_dropped_in_silence(glance: Callable) -> None:
    done = glance("schedule", "--size", "64x64", "optimize", "--model", "acme/tiny")

    assert done.code == 2
    assert "flags before optimize would change nothing" in done.err


def test_the_drawn_curve_is_that_of_the_teachers_steps(glance: Callable) -> None:
    done = glance(
        "schedule", "--schedule", "auto", "--teacher-steps", "20", "--slow-steps", "2", "--plot"
    )

    assert "of the base model's own 20" in done.out
