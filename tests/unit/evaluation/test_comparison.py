"""The verdict on made-up rows: what helps, what does not, and what cannot be said."""

from dataclasses import replace

import pytest
from fakes.comparisons import make_cell, make_comparison, make_row

from glance.evaluation.comparison import Comparison, Row, judge
from glance.evaluation.request import Variant


def compare(base: float, both: float, *, count: int = 8, spread: float = 0.01) -> Comparison:
    """Rows of an SSIM and, as latents, 1 - SSIM; the pair's differ by `spread` more or less."""
    return make_comparison(
        *(
            make_row(str(number), base=base, both=both + spread * (-1) ** number)
            for number in range(count)
        )
    )


def test_a_pair_that_is_wholly_nearer_helps() -> None:
    verdict = judge(compare(0.73, 0.84, spread=0.02))

    assert verdict.sentence == (
        "it helps: in 10 steps the pair ends 41 % nearer to the base's 50 than the base itself "
        "along the same sigmas (latents 0.160 against 0.270, difference -0.110, 95 % -0.125 to "
        "-0.095; 1 - SSIM 0.160 against 0.270, difference -0.110, 95 % -0.125 to -0.095)"
    )


TOO_CLOSE = (
    "too close to call: in 10 steps the pair ends about as near to the base's 50 as the base "
    "itself along the same sigmas (latents "
)


@pytest.mark.parametrize(
    ("both", "spread", "said"),
    [
        (0.73, 0.01, "it does not help: in 10 steps the pair ends 69 % further "),
        *((both, spread, TOO_CLOSE) for both, spread in ((0.84, 0.05), (0.845, 0.05), (0.84, 0))),
    ],
)
def test_what_is_no_nearer_does_not_help_and_nought_is_too_close_to_call(
    both: float, spread: float, said: str
) -> None:
    assert judge(compare(0.84, both, spread=spread)).sentence.startswith(said)


@pytest.mark.parametrize(("count", "words"), [(1, "one image proves"), (7, "7 images prove")])
def test_fewer_than_eight_pictures_prove_little(count: int, words: str) -> None:
    verdict = judge(compare(0.5, 0.8, count=count, spread=0))

    assert verdict.sentence == (
        f"{words} little (from 8 on there is a verdict): in 10 steps the pair ends 60 % nearer to "
        "the base's 50 than the base itself along the same sigmas (latents 0.200 against 0.500, "
        "difference -0.300; 1 - SSIM 0.200 against 0.500, difference -0.300)"
    )
    assert verdict.distance.interval is verdict.perceptual.interval is None


def test_a_hair_is_said_to_be_one() -> None:
    verdict = judge(compare(0.5, 0.501, spread=0))

    assert "ends less than 1 % nearer to" in verdict.sentence
    assert "difference -0.0010, 95 % -0.0010 to -0.0010" in verdict.sentence


def test_pictures_that_say_the_opposite_of_the_latents_are_pointed_out() -> None:
    rows = [make_row(str(number)) for number in range(8)]
    worse = make_cell(Variant.BOTH, figures={"latents": 0.2, "psnr": 10.0, "ssim": 0.3})
    comparison = make_comparison(
        *(replace(row, cells={**row.cells, Variant.BOTH: worse}) for row in rows)
    )

    verdict = judge(comparison)

    assert verdict.sentence.startswith("it helps: ")
    assert "; but 1 - SSIM 0.700 against 0.500, difference +0.200" in verdict.sentence


def test_lpips_takes_the_place_of_ssim_where_it_was_measured() -> None:
    row = make_row()
    cells = {
        variant: replace(cell, figures={**cell.figures, "lpips": 0.4 - 0.1 * number})
        for number, (variant, cell) in enumerate(row.cells.items())
    }

    verdict = judge(make_comparison(replace(row, cells=cells)))

    assert verdict.to_json()["perceptual"] == {
        "base": 0.3, "pair": 0.0, "difference": -0.3, "interval": None, "metric": "lpips",
    }  # fmt: skip
    assert "; LPIPS 0.000 against 0.300" in verdict.sentence


def test_variety_and_worth_are_told_where_they_are_known() -> None:
    variety = {Variant.TEACHER: 1.2, Variant.BOTH: 1.164}
    comparison = replace(compare(0.73, 0.84), variety=variety)

    verdict = judge(comparison, worth_steps=7)

    nobody = judge(compare(0.73, 0.84)).to_json()
    assert (nobody["variety"], nobody["worth_steps"]) == (None, None)
    assert verdict.sentence.endswith(
        "); worth about 7 of the base's own steps; variety 97 % of the base's"
    )


def test_json_has_every_figure_to_four_decimals() -> None:
    variety = {Variant.TEACHER: 1.23456, Variant.BOTH: 1.0}
    comparison = replace(compare(0.73, 0.84, spread=0), variety=variety)

    told = judge(comparison, worth_steps=7).to_json()

    figures = {"base": 0.27, "pair": 0.16, "difference": -0.11, "interval": [-0.11, -0.11]}
    assert told == {
        "distance": figures,
        "perceptual": {**figures, "metric": "1 - ssim"},
        "variety": {"base": 1.2346, "pair": 1.0},
        "worth_steps": 7,
        "images": 8,
    }


def test_the_teacher_is_not_compared_with_itself() -> None:
    assert list(make_comparison().to_json()["means"]["teacher"]) == ["seconds"]


@pytest.mark.parametrize("varying", ["prompt", "seed"])
def test_repeating_what_does_not_vary_makes_nothing_more_certain(varying: str) -> None:
    """Prompts and seeds are drawn anew, not images: those of one prompt are no new evidence."""

    def interval(repeated: int) -> tuple[float, float] | None:
        places = ((one, again) for one in range(8) for again in range(repeated))
        rows = (
            make_row(str(one), again, both=0.1 * one)
            if varying == "prompt"
            else make_row(str(again), one, both=0.1 * one)
            for one, again in places
        )
        found = make_comparison(*rows).mean(Variant.BOTH, "ssim")
        assert found is not None
        return found.interval

    assert interval(repeated=4) == pytest.approx(interval(repeated=1), abs=0.02)


def test_a_gain_is_paired() -> None:
    values = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    rows = [make_row("a", s, base=v, both=v + 0.05) for s, v in enumerate(values)]

    found = make_comparison(*rows).gain("ssim")

    assert found is not None
    assert found.interval == pytest.approx((0.05, 0.05))


def test_prompts_with_seeds_of_their_own_count_too() -> None:
    rows = (make_row("a", 1, both=0.2), make_row("b", 2, both=0.4))

    found = make_comparison(*rows).mean(Variant.BOTH, "ssim")

    assert found is not None
    assert found.value == pytest.approx(0.3)


def test_the_table_has_a_line_a_variant_and_no_empty_column() -> None:
    header, rows = make_comparison().tabulate()

    assert header == ("image", "seconds", "latents", "SSIM", "PSNR dB")
    assert rows[0] == ("base, 50 steps", "2.00", "-", "-", "-")
    assert rows[-1] == ("both, 10 steps", "2.00", "0.200", "0.800", "32.0")


@pytest.mark.parametrize("cached", [Variant.BASE, Variant.BOTH])
def test_seconds_of_the_pair_and_of_the_base_go_together(cached: Variant) -> None:
    row = make_row("b")
    cells = {**row.cells, cached: make_cell(cached, seconds=None, was_cached=True)}
    comparison = make_comparison(make_row(), Row("b", 0, cells))

    assert comparison.tabulate()[0] == ("image", "latents", "SSIM", "PSNR dB")
    assert not any("seconds" in means for means in comparison.to_json()["means"].values())
