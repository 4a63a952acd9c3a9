"""Every way a picture and its caption can be wrong, and how a pair that is fit is staged."""

import os
import random
import re
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile

from glance.core.errors import SampleError
from glance.runs.sample import (
    Examination,
    Sample,
    Stage,
    examine_sample,
    measure_picture,
    stage_sample,
)

GREEN, BLUE = (0, 255, 0), (0, 0, 255)
LEFT_RED = Image.new("RGB", (64, 32), BLUE)
LEFT_RED.paste("red", (0, 0, 32, 32))
SIDEWAYS = Image.Exif()
SIDEWAYS[0x0112] = 6
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def write_pair(
    folder: Path,
    picture: Image.Image | bytes = LEFT_RED,
    caption: str | bytes = "a red fox",
    *,
    name: str = "fox.png",
    **save: Any,
) -> Path:
    image = folder / name
    if isinstance(picture, bytes):
        image.write_bytes(picture)
    else:
        picture.save(image, **save)
    data = caption.encode() if isinstance(caption, str) else caption
    image.with_suffix(".txt").write_bytes(data)
    return image


def only_problem(examination: Examination) -> tuple[str, str]:
    assert examination.sample is None
    [problem] = examination.problems
    assert problem.hint
    return problem.message, problem.hint


def sample_of(image: Path, **options: Any) -> Sample:
    return examine_sample(image, **options).require()


def staged(image: Path, folder: Path) -> Image.Image:
    sample = sample_of(image)
    out = folder / "staged"
    stage_sample(sample, Stage(out, folder / "references"))
    with Image.open(out / f"{sample.name}.png") as picture:
        picture.load()
    assert (picture.format, picture.mode, picture.info) == ("PNG", "RGB", {})
    assert picture.size == (sample.width, sample.height)
    return picture


def test_a_good_pair_becomes_a_sample(tmp_path: Path) -> None:
    image = write_pair(tmp_path, caption="  a red fox \r\n\r\n in  snow\t\n\n")
    examination = examine_sample(image, resolution=32, text_tokens=512)
    assert (examination.problems, examination.warnings) == ((), ())
    sample = examination.require()
    assert (sample.image, sample.caption_file) == (image, tmp_path / "fox.txt")
    assert sample.caption == "a red fox\n\nin  snow"
    assert (sample.width, sample.height, sample.name) == (64, 32, "fox")


def test_identity_follows_pixels_and_caption_but_not_the_container(tmp_path: Path) -> None:
    first = sample_of(write_pair(tmp_path, name="a.png"))
    same = sample_of(write_pair(tmp_path, name="b.bmp"))
    other_caption = sample_of(write_pair(tmp_path, caption="a fox", name="c.png"))
    turned = LEFT_RED.transpose(Image.Transpose.ROTATE_90)
    other_pixels = sample_of(write_pair(tmp_path, turned, name="d.png"))
    assert first.sha256 == same.sha256
    assert len({first.sha256, other_caption.sha256, other_pixels.sha256}) == 3


def test_caption_argument_wins_over_the_file(tmp_path: Path) -> None:
    sample = sample_of(write_pair(tmp_path, caption=b"\xff not read"), caption=" a dog\n")
    assert (sample.caption, sample.caption_file) == ("a dog", None)


def test_examining_and_staging_leave_the_originals_alone(tmp_path: Path) -> None:
    image = write_pair(tmp_path)
    files = (image, image.with_suffix(".txt"))
    for file in files:
        os.utime(file, (1_000_000, 1_000_000))
        file.chmod(0o444)
    before = [(file.read_bytes(), file.stat().st_mtime_ns) for file in files]
    staged(image, tmp_path)
    assert [(file.read_bytes(), file.stat().st_mtime_ns) for file in files] == before
    names = sorted(path.name for path in tmp_path.iterdir() if path.name != "work")
    assert names == ["fox.png", "fox.txt", "staged"]


def test_missing_image_is_named_and_its_caption_still_examined(tmp_path: Path) -> None:
    (tmp_path / "fox.txt").write_bytes(b"")
    problems = examine_sample(tmp_path / "fox.png").problems
    assert [problem.message for problem in problems] == [
        f"image {tmp_path}/fox.png does not exist",
        f"caption file {tmp_path}/fox.txt is empty",
    ]
    assert all(problem.hint for problem in problems)


@pytest.mark.parametrize("path", [".", "..", "/", ""])
def test_directory_is_no_image(path: str) -> None:
    message, _ = only_problem(examine_sample(Path(path)))
    assert message == f"image {Path(path)} is a directory"


def test_unreadable_image_and_caption_are_told_with_chmod(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: object, *_args: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    image = write_pair(tmp_path, name="my fox.png")
    monkeypatch.setattr(os, "open", refuse)  # root, as in many containers, may read anything
    image_problem, caption_problem = examine_sample(image).problems
    assert image_problem.message == f"image {image} may not be read"
    assert image_problem.hint == f"chmod u+r '{image}'"
    assert caption_problem.message == f"caption file {tmp_path}/my fox.txt may not be read"


def test_paths_that_the_system_refuses_are_problems(tmp_path: Path) -> None:
    loop = tmp_path / "loop.png"
    loop.symlink_to(loop)
    assert "cannot be read" in only_problem(examine_sample(loop, caption="a fox"))[0]
    below = write_pair(tmp_path) / "inner.png"
    assert "does not exist" in only_problem(examine_sample(below, caption="a fox"))[0]
    nul = tmp_path / "f\0x.png"
    message, _ = only_problem(examine_sample(nul, caption="a fox"))
    assert message == f"image {tmp_path}/f\\x00x.png cannot be read: embedded null byte"
    assert len(examine_sample(nul).problems) == 2


@pytest.mark.parametrize(
    ("data", "said", "remedy"),
    [
        (b"", "is empty (0 bytes)", "copy or export it again"),
        (b"%!PS-Adobe-3.0\n\n", "is no image that can be read", "save it as PNG or JPEG"),
    ],
)
def test_what_is_no_picture_should_be_saved_as_one(
    tmp_path: Path, data: bytes, said: str, remedy: str
) -> None:
    image = write_pair(tmp_path, data)
    assert only_problem(examine_sample(image)) == (f"image {image} {said}", remedy)


@pytest.mark.parametrize("name", ["fox.png", "fox.jpg", "fox.gif", "fox.bmp", "fox.webp"])
def test_truncated_image_cannot_be_decoded(tmp_path: Path, name: str) -> None:
    image = write_pair(tmp_path, Image.effect_noise((64, 64), 90).convert("RGB"), name=name)
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    message, _ = only_problem(examine_sample(image))
    assert message.startswith(f"image {image} ")
    assert "damaged or cut short" in message


@pytest.mark.parametrize(
    ("size", "hint"),
    [
        ((64, 32), "use an image of at least 64x64 pixels"),
        ((100, 90), "use an image of 256x256 pixels or more; --resolution 64 trains this one"),
        ((130, 260), "use an image of 256x256 pixels or more; --resolution 128 trains this one"),
        ((300, 873), "--resolution 448"),
    ],
)
def test_too_small_picture_gets_the_resolution_that_fits(
    tmp_path: Path, size: tuple[int, int], hint: str
) -> None:
    image = write_pair(tmp_path, Image.new("RGB", size))
    message, found = only_problem(examine_sample(image, resolution=512))
    assert message.endswith(f"is {size[0]}x{size[1]} pixels, too small for resolution 512")
    assert found.startswith(hint)


def test_area_decides_what_is_too_small(tmp_path: Path) -> None:
    image = write_pair(tmp_path, Image.new("RGB", (128, 32)))
    assert examine_sample(image, resolution=64).sample is not None


@pytest.mark.parametrize("size", [(60_000, 60_000), (10_000, 10_000)])
def test_decompression_bomb_is_never_decoded(
    tmp_path: Path, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    image = write_pair(tmp_path, b"\x89PNG\r\n\x1a\n" + header + rows)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("decoded"))
    message, _ = only_problem(examine_sample(image))
    assert "more than 89,478,485 pixels" in message


@pytest.mark.parametrize("name", ["fox.gif", "fox.png", "fox.webp", "fox.tiff"])
def test_animation_is_refused(tmp_path: Path, name: str) -> None:
    frames = [LEFT_RED.rotate(180)]
    image = write_pair(tmp_path, LEFT_RED, name=name, save_all=True, append_images=frames)
    said = (f"image {image} is animated (2 frames)", "save one frame of it as PNG")
    assert only_problem(examine_sample(image)) == said


def test_where_a_caption_is_looked_for(tmp_path: Path) -> None:
    image, text, caption = (write_pair(tmp_path), tmp_path / "fox.txt", tmp_path / "fox.caption")
    caption.write_text("a dog")
    both = examine_sample(image)
    assert [f"{text} is used" in warning.message for warning in both.warnings] == [True]
    assert both.require().caption == "a red fox"

    text.unlink()
    assert sample_of(image).caption_file == caption

    caption.unlink()
    text.mkdir()
    assert only_problem(examine_sample(image))[0] == f"caption file {text} is a directory"
    text.rmdir()
    message, hint = only_problem(examine_sample(image))
    assert message == f"no caption for {image}: neither {text} nor {caption} exists"
    assert hint == f'write one line of text to {text}, or pass --caption "..."'


@pytest.mark.parametrize("caption", ["", " \r\n\t\n", "\ufeff", "\u200b"])
def test_caption_without_text_is_empty(tmp_path: Path, caption: str) -> None:
    image = write_pair(tmp_path, caption=caption)
    message, _ = only_problem(examine_sample(image))
    assert message == f"caption file {tmp_path}/fox.txt is empty"
    assert only_problem(examine_sample(image, caption=caption))[0] == "--caption is empty"


def test_byte_order_mark_is_dropped_but_counted(tmp_path: Path) -> None:
    image = write_pair(tmp_path, caption=b"\xef\xbb\xbfa fox")
    assert sample_of(image).caption == "a fox"
    (tmp_path / "fox.txt").write_bytes(b"\xef\xbb\xbfa\xff")
    assert "is damaged UTF-8 (byte 4); " in only_problem(examine_sample(image))[0]


def test_huge_caption_is_not_read_whole(tmp_path: Path) -> None:
    image = write_pair(tmp_path, caption=b"x" * 65536)
    assert len(sample_of(image).caption) == 65536
    with (tmp_path / "fox.txt").open("wb") as file:
        file.truncate(1 << 40)  # sparse: a terabyte of NULs that takes no room
    assert "is larger than 64 KiB" in only_problem(examine_sample(image))[0]


@pytest.mark.parametrize("character", ["\0", "\x1b", "\x0b", "\x7f", "\x85", "\udce9"])
def test_control_character_is_named_with_its_line(tmp_path: Path, character: str) -> None:
    caption = f"a fox\nin{character} snow"
    message, _ = only_problem(examine_sample(write_pair(tmp_path), caption=caption))
    code = f"U+{ord(character):04X}"
    assert message == f"--caption holds a character that is no text ({code}, line 2)"


@pytest.mark.parametrize(
    ("caption", "tokens", "about"),
    [("word " * 80, 77, "104"), ("x" * 400, 77, "100"), ("a fox", 77, None), ("a b", 2, "3")],
)
def test_caption_beyond_the_text_encoder_is_a_warning(
    tmp_path: Path, caption: str, tokens: int, about: str | None
) -> None:
    warnings = examine_sample(write_pair(tmp_path, caption=caption), text_tokens=tokens).warnings
    said = f"the caption has about {about} tokens, but the model reads {tokens}: "
    expected = [said + "what lies beyond is cut"] if about else []
    assert [one.message for one in warnings] == expected


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("Füchsin_im.Schnee-2", "Füchsin_im.Schnee-2"),
        ("my fox  (1)", "my-fox-1"),
        ("../../etc/passwd", "passwd"),
        ("$(rm -rf ~); 'x'\n", "rm--rf-x"),
        (".hidden", "hidden"),
        ("狐狸", "狐狸"),
        ("\udcff!", "sample"),
        ("x" * 79 + ".y", "x" * 79),
    ],
)
def test_name_is_a_safe_stem(stem: str, name: str) -> None:
    assert Sample(Path(f"{stem}.png"), "a fox", None, 1, 1, "").name == name


@pytest.mark.parametrize(
    "stem", ["-n", "two\nlines", "a 'b' \"c\"", "ü" * 60, "\udcff", "a.b", "~"]
)
def test_odd_file_names_are_found_and_staged(tmp_path: Path, stem: str) -> None:
    image = tmp_path / f"{stem}.png"
    LEFT_RED.save(image, "PNG")
    message, hint = only_problem(examine_sample(image))
    assert (message + hint).isprintable()
    (tmp_path / f"{stem}.txt").write_text("a fox")
    assert staged(image, tmp_path).tobytes() == LEFT_RED.tobytes()


def test_picture_named_like_a_caption_is_not_its_own_caption(tmp_path: Path) -> None:
    image = tmp_path / "fox.txt"
    LEFT_RED.save(image, "PNG")
    assert only_problem(examine_sample(image))[0].startswith("no caption for ")


def test_staging_again_gives_the_same_bytes_and_leaves_nothing_else(tmp_path: Path) -> None:
    image = write_pair(tmp_path, caption="\n a füchsin \n in snow \n\n")
    staged(image, tmp_path)
    out = tmp_path / "staged"
    first = (out / "fox.png").read_bytes()
    staged(image, tmp_path)
    assert (out / "fox.png").read_bytes() == first
    assert (out / "fox.txt").read_bytes() == "a füchsin\nin snow\n".encode()
    assert {path.name for path in out.iterdir()} == {"fox.png", "fox.txt"}


@pytest.mark.parametrize(
    "change",
    [Path.unlink, lambda image: os.truncate(image, 60), LEFT_RED.rotate(180).save],
    ids=["gone", "cut short", "other pixels"],
)
def test_image_that_changed_meanwhile_is_not_staged(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    image = write_pair(tmp_path)
    sample = sample_of(image)
    change(image)
    with pytest.raises(SampleError, match="has changed since it was examined"):
        stage_sample(sample, Stage(tmp_path, tmp_path / "references"))


@pytest.fixture
def triple(tmp_path: Path) -> tuple[Path, Path]:
    """A pair to edit into, and the picture before the edit, on its side by EXIF."""
    before = tmp_path / "before.jpg"
    Image.new("RGB", (64, 32), GREEN).save(before, quality=95, exif=SIDEWAYS)
    return write_pair(tmp_path, caption="make it red"), before


def test_only_a_family_that_edits_takes_a_reference(triple: tuple[Path, Path]) -> None:
    image, before = triple
    message, hint = only_problem(examine_sample(image, reference=None, edits=True))
    assert message.startswith("no reference: this family edits an image")
    assert "--source-image" in hint
    message, hint = only_problem(examine_sample(image, reference=before, edits=False))
    assert message == f"reference {before}: this family generates from text alone"
    assert hint.startswith("drop --source-image")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "is empty"), (b"no image", "is no image"), (None, "does not exist")],
)
def test_an_unfit_reference_is_refused_by_that_name(
    content: bytes | None, words: str, triple: tuple[Path, Path]
) -> None:
    image, before = triple
    before.unlink() if content is None else before.write_bytes(content)
    message, _ = only_problem(examine_sample(image, reference=before, edits=True))
    assert message.startswith(f"reference {before}")
    assert words in message
    image.write_bytes(b"")
    both = examine_sample(image, reference=before, edits=True).problems
    assert [problem.message.split()[0] for problem in both] == ["image", "reference"]


def test_a_reference_that_is_the_image_is_warned_of(triple: tuple[Path, Path]) -> None:
    image, _ = triple
    found = examine_sample(image, reference=image, edits=True)
    assert [problem.message for problem in found.warnings] == [
        f"reference {image} is the image itself: there is no edit to learn"
    ]


def test_the_reference_belongs_to_what_is_trained(triple: tuple[Path, Path]) -> None:
    image, before = triple
    with_green = sample_of(image, reference=before, edits=True)
    Image.new("RGB", (64, 32), BLUE).save(before)
    with_blue = sample_of(image, reference=before, edits=True)
    assert len({with_green.sha256, with_blue.sha256, sample_of(image).sha256}) == 3


def test_the_reference_is_staged_upright_under_the_images_name(
    triple: tuple[Path, Path], tmp_path: Path
) -> None:
    image, before = triple
    references = tmp_path / "references"
    sample = sample_of(image, reference=before, edits=True)
    stage_sample(sample, Stage(tmp_path / "data", references))
    assert sorted(path.name for path in references.iterdir()) == ["fox.png", "fox.txt"]
    assert (references / "fox.txt").read_text() == "make it red\n"
    with Image.open(references / "fox.png") as picture:
        assert (picture.mode, picture.size) == ("RGB", (32, 64))
        assert np.abs(np.asarray(picture).astype(int) - GREEN).max() <= 6
    assert measure_picture(before) == (32, 64)


def test_a_reference_that_changed_meanwhile_is_not_staged(
    triple: tuple[Path, Path], tmp_path: Path
) -> None:
    image, before = triple
    sample = sample_of(image, reference=before, edits=True)
    Image.new("RGB", (8, 8)).save(before)
    words = re.escape(f"{image} or {before} has changed since it was examined")
    with pytest.raises(SampleError, match=words):
        stage_sample(sample, Stage(tmp_path / "data", tmp_path / "references"))
    assert not (tmp_path / "data").exists()


def mutated(data: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 2, 8))):
        # Half of the damage goes to the start, where the headers are.
        place = rng.randrange(len(data) if rng.random() < 0.5 else min(len(data), 100))
        flipped = bytes([data[place] ^ 1 << rng.randrange(8)])
        put = rng.choice((flipped, flipped, rng.randbytes(9), b"\xff" * 4, b"\0" * 4))
        data = data[:place] + put + data[place + rng.choice((0, len(put), len(data))) :]
    return data


@pytest.mark.parametrize("seed", range(5))
def test_mutated_pairs_end_in_an_examination(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    ramp = Image.linear_gradient("L").resize((40, 24)).convert("RGB")
    for _ in range(100):
        buffer = BytesIO()
        kind = rng.choice(("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"))
        ramp.convert(rng.choice(("RGB", "L"))).save(buffer, kind, exif=SIDEWAYS, icc_profile=ICC)
        data = mutated(buffer.getvalue(), rng)
        caption = mutated("\ufeffa füchsin\r\nim Schnee".encode(), rng)
        image = write_pair(tmp_path, data, caption)
        examination = examine_sample(image, resolution=16, text_tokens=4)
        assert (examination.sample is None) == bool(examination.problems)
        assert all(one.hint and one.message.isprintable() for one in examination.problems)
        assert (image.read_bytes(), (tmp_path / "fox.txt").read_bytes()) == (data, caption)
