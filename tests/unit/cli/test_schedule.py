"""`glance schedule`, as users type it."""

from pathlib import Path

from fakes.commands import Glance

GUIDE = {
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


def test_the_table_and_the_document_hold_every_step_in_both_units(invoke: Glance) -> None:
    done, document = invoke("schedule"), invoke("schedule", "--json").document

    assert done.out.split() == TABLE.split()
    assert "source: SimpleTuner's one-sample guide" in done.err
    assert document == {
        phase: {"timesteps": values, "sigmas": [value / 1000.0 for value in values]}
        for phase, values in GUIDE.items()
    }


def test_another_size_than_the_lists_own_is_said(invoke: Glance) -> None:
    assert "not 512x768" in invoke("schedule", "--size", "512x768").err
    assert "note:" not in invoke("schedule", "--size", "1024x1024").err


def test_the_models_own_list_is_derived_for_the_size(invoke: Glance) -> None:
    ours = invoke("schedule", "--schedule", "auto", "--family", "qwen_image", "--json").document
    small = invoke("schedule", "--schedule", "auto", "--size", "512x512")
    unknown = invoke("schedule", "--schedule", "auto", "--model", "acme/tiny")

    assert {phase: ours[phase]["timesteps"] for phase in ours} == GUIDE
    assert "of 50 steps of FLUX.1 at 512x512" in small.err
    assert unknown.code == 0
    assert "model acme/tiny: its scheduler/scheduler_config.json cannot be read" in unknown.err


def test_what_is_printed_is_a_file_that_is_read(invoke: Glance) -> None:
    printed = invoke("schedule", "--schedule", "paper", "--json")
    Path("mine.json").write_text(printed.out)

    done = invoke("schedule", "--schedule", "mine.json", "--json")

    assert done.document == printed.document
    assert "source: the file mine.json" in done.err


def test_it_is_drawn_to_a_file_or_in_the_terminal(invoke: Glance) -> None:
    auto = ("schedule", "--schedule", "auto")
    teacher = ("--teacher-steps", "20", "--slow-steps", "2")

    for name in ("x.png", "x.svg"):
        assert invoke(*auto, "--plot", name).code == 0
        assert Path(name).stat().st_size > 5000
    assert "of the base model's own 20" in invoke(*auto, *teacher, "--plot").out
    assert "fast begins at sigma 0.8867, timestep 886.7" in invoke("schedule", "--plot").out
    both = invoke("schedule", "--plot", "--json").document
    assert both["fast"]["timesteps"] == GUIDE["fast"]


def test_optimising_refuses_everything_at_once_before_any_model(invoke: Glance) -> None:
    Path("there.json").write_text("{}")
    flags = ("--model", "acme/tiny", "--steps", "12", "--teacher-steps", "20")

    done = invoke("schedule", "optimize", *flags, "--output", "there.json")
    before = invoke("schedule", "--size", "64x64", "optimize", "--model", "acme/tiny")

    assert done.code == 4
    assert "there.json is there already" in done.err
    assert "12 steps need a trajectory of at least 24" in done.err
    assert before.code == 2
    assert "flags before optimize would change nothing" in before.err
