from collections.abc import Callable

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
    assert "slow[2]: 950 is not below slow[1] = 900" in done.err
    assert "fast[1]: nan is not a finite number" in done.err


def test_a_size_that_is_none_is_wrong_usage(glance: Callable) -> None:
    assert glance("schedule", "--size", "big").code == 2
