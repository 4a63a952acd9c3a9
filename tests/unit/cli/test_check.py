from collections.abc import Callable
from pathlib import Path

from PIL import Image

from glance.models.families import FAMILIES


def test_a_sound_pair_is_exit_0(glance: Callable, pair: Path) -> None:
    done = glance("check", "cat.png", "--model", "small-flux")

    assert (done.code, done.out) == (0, "fit to train on: cat.png, 64x64\n")
    assert done.err == "cat.png is trained at 64x64\n"


def test_its_document_describes_the_pair(glance: Callable, pair: Path) -> None:
    document = glance("check", "cat.png", "--model", "small-flux", "--json").document

    assert len(document.pop("sha256")) == 64
    assert document == {
        "image": "cat.png",
        "caption": "a grey circle",
        "reference": None,
        "width": 64,
        "height": 64,
        "pictures": [{"crop": "whole", "width": 64, "height": 64, "cut": 0.0}],
        "warnings": [],
    }


def test_all_problems_come_together_each_with_its_remedy(glance: Callable, pair: Path) -> None:
    pair.with_suffix(".txt").write_bytes(b"\xff\xfe\x00")

    done = glance("check", "cat.png")

    assert done.code == 4
    assert done.err.count("error: ") == 2
    assert done.err.count("hint: ") == 2
    assert "--resolution 64" in done.err


def test_quiet_says_nothing_but_the_result(glance: Callable, pair: Path) -> None:
    pair.with_suffix(".caption").write_text("another")

    assert glance("check", "cat.png", "--resolution", 64).err.startswith("warning: ")
    assert glance("check", "cat.png", "--resolution", 64, "--quiet").err == ""


def test_an_unknown_family_is_refused_with_the_known_ones(glance: Callable, pair: Path) -> None:
    done = glance("check", "cat.png", "--family", "flax")

    assert done.code == 4
    assert done.err == (
        f"error: family 'flax' is not supported\n  hint: glance trains: {', '.join(FAMILIES)}\n"
    )


def test_a_reference_is_examined_with_the_pair(glance: Callable, pair: Path) -> None:
    family = ("--family", "qwen_image_edit_2511", "--resolution", 64)
    Image.new("RGB", (64, 64)).save("before.png")

    done = glance("check", "cat.png", *family, "--source-image", "before.png", "--json")

    assert done.document["reference"] == "before.png"
    without = glance("check", "cat.png", *family)
    assert without.code == 4
    assert without.err.startswith("error: no reference: this family edits a picture")
    needless = glance("check", "cat.png", "--resolution", 64, "--source-image", "before.png")
    assert needless.code == 4
    assert needless.err.startswith("error: reference before.png: this family generates from text")
