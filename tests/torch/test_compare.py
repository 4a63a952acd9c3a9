from pathlib import Path

import pytest
from PIL import Image

from glance.compare import Comparison, compare_pictures, save_sheet
from glance.generation.plan import plan_generation
from glance.generation.request import InferRequest


@pytest.fixture
def comparison(run_folder: Path) -> Comparison:
    plan = plan_generation(
        InferRequest(prompts=("a hill",), run=run_folder, device="cpu", seeds=(3,))
    )
    return compare_pictures(plan, ["a hill", "a sea"], lambda _: None, judge=lambda p, _: p.upper())


def test_every_prompt_has_every_variant_with_its_verdict(comparison: Comparison) -> None:
    rows = comparison.to_json()

    assert list(rows) == ["a hill", "a sea"]
    assert [cell["variant"] for cell in rows["a sea"]] == [
        "base, 50 steps",
        "base, 10 steps",
        "slow only, 10 steps",
        "fast only, 10 steps",
        "both, 10 steps",
    ]
    assert {cell["verdict"] for cell in rows["a sea"]} == {"A SEA"}


def test_each_lora_makes_a_picture_of_its_own(comparison: Comparison) -> None:
    for row in comparison.rows.values():
        assert len({cell.image.tobytes() for cell in row}) == len(row)


def test_both_is_what_infer_makes(comparison: Comparison, run_folder: Path) -> None:
    from glance.generation.execute import run_generation

    plan = plan_generation(
        InferRequest(prompts=("a hill",), run=run_folder, device="cpu", seeds=(3,))
    )
    made = Image.open(run_generation(plan, lambda _: None).images[0])

    assert comparison.rows["a hill"][-1].image.tobytes() == made.tobytes()


def test_the_sheet_shows_all_of_it(comparison: Comparison, pair: Path, tmp_path: Path) -> None:
    save_sheet(comparison, pair, tmp_path / "sheet.png")

    sheet = Image.open(tmp_path / "sheet.png")
    assert (sheet.width, sheet.height) == (6 * 168 + 8, 2 * (34 + 160 + 60 + 8))
