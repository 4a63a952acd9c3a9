"""`glance check` as users meet it; each refusal is in tests/unit/dataset."""

from pathlib import Path

from fakes.commands import Glance
from PIL import Image


def test_a_sound_pair_is_described(invoke: Glance, pair: Path) -> None:
    done = invoke("check", "cat.png", "--model", "small-flux")
    document = invoke("check", "cat.png", "--model", "small-flux", "--json").document

    assert (done.code, done.out) == (0, "fit to train on: cat.png, 64x64\n")
    assert done.err == "cat.png is trained at 64x64\n"
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


def test_all_problems_come_together_each_with_its_remedy(invoke: Glance, pair: Path) -> None:
    pair.with_suffix(".txt").write_bytes(b"\xff\xfe\x00")

    done = invoke("check", "cat.png")

    assert done.code == 4
    assert (done.err.count("error: "), done.err.count("hint: ")) == (2, 2)
    assert "--resolution 64" in done.err


def test_quiet_says_nothing_but_the_result(invoke: Glance, pair: Path) -> None:
    pair.with_suffix(".caption").write_text("another")

    assert invoke("check", "cat.png", "--resolution", 64).err.startswith("warning: ")
    assert invoke("check", "cat.png", "--resolution", 64, "--quiet").err == ""


def test_a_reference_is_examined_with_the_pair(invoke: Glance, pair: Path) -> None:
    Image.new("RGB", (64, 64)).save("before.png")
    check = ("check", "cat.png", "--resolution", 64, "--source-image", "before.png")

    done = invoke(*check, "--family", "qwen_image_edit_2511", "--json")
    needless = invoke(*check)

    assert done.document["reference"] == "before.png"
    assert needless.code == 4
    assert needless.err.startswith("error: reference before.png: this family generates from text")
