"""Every way a picture and its caption can be wrong, and what a picture becomes when it is not."""

import os
import random
import re
import struct
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile

from glance.core.errors import SampleError
from glance.core.pictures import to_rgb
from glance.dataset.sample import (
    Examination,
    Sample,
    Stage,
    examine_sample,
    load_sample,
    measure_picture,
    stage_sample,
)

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
LEFT_RED = Image.new("RGB", (64, 32), BLUE)
LEFT_RED.paste(RED, (0, 0, 32, 32))


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


def sample_of(image: Path) -> Sample:
    sample = load_sample(image).sample
    assert sample is not None
    return sample


def staged(image: Path, folder: Path) -> Image.Image:
    sample = sample_of(image)
    out = folder / "staged"
    out.mkdir()
    stage_sample(sample, Stage(out, folder / "references"))
    with Image.open(out / f"{sample.name}.png") as picture:
        picture.load()
    assert (picture.format, picture.mode, picture.info) == ("PNG", "RGB", {})
    assert picture.size == (sample.width, sample.height)
    return picture


def is_close(picture: Image.Image, colour: tuple[int, int, int]) -> bool:
    return bool(np.abs(np.asarray(picture).astype(int) - colour).max() <= 6)


def png(size: tuple[int, int], depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra
    return start + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def swapped_profile() -> bytes:
    """An RGB profile whose red is green, under a name that is not sRGB."""
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    icc = icc.replace("sRGB".encode("utf-16-be"), "test".encode("utf-16-be"))
    return icc.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")


def profile(device: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    """The least of an ICC profile that LittleCMS accepts."""
    illuminant = struct.pack(">iii", 63190, 65536, 54061)
    tags = {
        b"desc": b"desc" + struct.pack(">II", 0, 5) + b"test\0" + bytes(79),
        b"wtpt": b"XYZ " + bytes(4) + illuminant,
        **tags,
    }
    table, body = struct.pack(">I", len(tags)), b""
    start = 132 + 12 * len(tags)
    for tag, data in tags.items():
        table += tag + struct.pack(">II", start + len(body), len(data))
        body += data
    header = struct.pack(">I4sI", start + len(body), b"test", 0x02100000)
    header += b"prtr" + device + connection + bytes(12) + b"acsp" + bytes(28) + illuminant
    return header.ljust(128, b"\0") + table + body


# --- a good pair ---------------------------------------------------------------------------------


def test_a_good_pair_becomes_a_sample(tmp_path: Path) -> None:
    image = write_pair(tmp_path, caption="  a red fox \r\n\r\n in  snow\t\n\n")
    examination = examine_sample(image, resolution=32, text_tokens=512)
    assert (examination.problems, examination.warnings) == ((), ())
    sample = examination.sample
    assert sample is not None
    assert (sample.image, sample.caption_file) == (image, tmp_path / "fox.txt")
    assert sample.caption == "a red fox\n\nin  snow"
    assert (sample.width, sample.height, sample.name) == (64, 32, "fox")


def test_identity_follows_pixels_and_caption_but_not_the_container(
    tmp_path: Path,
) -> None:
    first = sample_of(write_pair(tmp_path, name="a.png"))
    same = sample_of(write_pair(tmp_path, name="b.bmp"))
    other_caption = sample_of(write_pair(tmp_path, caption="a fox", name="c.png"))
    turned = LEFT_RED.transpose(Image.Transpose.ROTATE_90)
    other_pixels = sample_of(write_pair(tmp_path, turned, name="d.png"))
    assert first.sha256 == same.sha256
    assert len({first.sha256, other_caption.sha256, other_pixels.sha256}) == 3


def test_caption_argument_wins_over_the_file(tmp_path: Path) -> None:
    image = write_pair(tmp_path, caption=b"\xff not read")
    sample = load_sample(image, caption=" a dog\n").sample
    assert sample is not None
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
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "work") == [
        "fox.png",
        "fox.txt",
        "staged",
    ]


def test_importing_the_module_loads_neither_numpy_nor_torch() -> None:
    heavy = "{'numpy', 'torch', 'pydantic'}"
    code = f"import sys, glance.dataset.sample; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# --- what can be wrong with the image ------------------------------------------------------------


def test_missing_image_is_named_and_its_caption_still_examined(tmp_path: Path) -> None:
    (tmp_path / "fox.txt").write_bytes(b"")
    problems = examine_sample(tmp_path / "fox.png").problems
    assert [problem.message for problem in problems] == [
        f"image {tmp_path}/fox.png does not exist",
        f"caption file {tmp_path}/fox.txt is empty",
    ]
    assert all(problem.hint for problem in problems)


def test_image_below_a_file_does_not_exist(tmp_path: Path) -> None:
    image = write_pair(tmp_path) / "inner.png"
    assert "does not exist" in only_problem(examine_sample(image, caption="a fox"))[0]


@pytest.mark.parametrize("path", [".", "..", "/", ""])
def test_directory_is_no_image(path: str) -> None:
    message, _ = only_problem(examine_sample(Path(path)))
    assert message == f"image {Path(path)} is a directory"


def test_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fox.png")
    os.mkfifo(tmp_path / "fox.txt")
    messages = [problem.message for problem in examine_sample(tmp_path / "fox.png").problems]
    assert len(messages) == 2
    assert all("it is a named pipe, not a file" in message for message in messages)


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


def test_symlink_loop_and_nul_in_path_are_problems(tmp_path: Path) -> None:
    loop = tmp_path / "fox.png"
    loop.symlink_to(loop)
    assert "cannot be read" in only_problem(examine_sample(loop, caption="a fox"))[0]
    nul = tmp_path / "f\0x.png"
    message, _ = only_problem(examine_sample(nul, caption="a fox"))
    assert message == f"image {tmp_path}/f\\x00x.png cannot be read: embedded null byte"
    assert len(examine_sample(nul).problems) == 2


def test_empty_image_file_has_zero_bytes(tmp_path: Path) -> None:
    image = write_pair(tmp_path, b"")
    assert only_problem(examine_sample(image))[0] == f"image {image} is empty (0 bytes)"


@pytest.mark.parametrize("data", [b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n\n"])
def test_what_is_no_picture_should_be_saved_as_one(tmp_path: Path, data: bytes) -> None:
    image = write_pair(tmp_path, data)
    message, hint = only_problem(examine_sample(image))
    assert message == f"image {image} is no picture that can be read"
    assert hint == "save it as PNG or JPEG"


@pytest.mark.parametrize("name", ["fox.png", "fox.jpg", "fox.gif", "fox.bmp", "fox.webp"])
def test_truncated_image_cannot_be_decoded(tmp_path: Path, name: str) -> None:
    noise = Image.effect_noise((64, 64), 90).convert("RGB")
    image = write_pair(tmp_path, noise, name=name)
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    message, _ = only_problem(examine_sample(image))
    assert message.startswith(f"image {image} ")
    assert "damaged or cut short" in message


@pytest.mark.parametrize(
    ("size", "hint"),
    [
        ((64, 32), "use a picture of at least 64x64 pixels"),
        ((100, 90), "use a picture of 256x256 pixels or more; --resolution 64 trains this one"),
        ((130, 260), "use a picture of 256x256 pixels or more; --resolution 128 trains this one"),
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
    image = write_pair(tmp_path, png(size, 8, 2, b"\0" * 1000))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("decoded"))
    message, _ = only_problem(examine_sample(image))
    assert "more than 89,478,485 pixels" in message


@pytest.mark.parametrize("name", ["fox.gif", "fox.png", "fox.webp", "fox.tiff"])
def test_animation_is_refused(tmp_path: Path, name: str) -> None:
    frames = [LEFT_RED.rotate(180)]
    image = write_pair(tmp_path, LEFT_RED, name=name, save_all=True, append_images=frames)
    message, hint = only_problem(examine_sample(image))
    assert message == f"image {image} is animated (2 frames)"
    assert hint == "save one frame of it as PNG"


# --- what can be wrong with the caption ----------------------------------------------------------


def test_missing_caption_names_both_places(tmp_path: Path) -> None:
    image = write_pair(tmp_path)
    text = tmp_path / "fox.txt"
    text.unlink()
    message, hint = only_problem(examine_sample(image))
    assert message == f"no caption for {image}: neither {text} nor {tmp_path}/fox.caption exists"
    assert hint == f'write one line of text to {text}, or pass --caption "..."'


def test_caption_suffix_is_read_when_there_is_no_txt(tmp_path: Path) -> None:
    image = write_pair(tmp_path)
    (tmp_path / "fox.txt").rename(tmp_path / "fox.caption")
    assert sample_of(image).caption_file == tmp_path / "fox.caption"


def test_txt_wins_over_caption_with_a_warning(tmp_path: Path) -> None:
    image = write_pair(tmp_path)
    (tmp_path / "fox.caption").write_text("a dog")
    examination = load_sample(image)
    [warning] = examination.warnings
    assert f"{tmp_path}/fox.txt is used" in warning.message
    assert examination.sample is not None
    assert examination.sample.caption == "a red fox"


@pytest.mark.parametrize("caption", ["", " \r\n\t\n", "\ufeff", "\u200b"])
def test_caption_without_text_is_empty(tmp_path: Path, caption: str) -> None:
    image = write_pair(tmp_path, caption=caption)
    message, _ = only_problem(examine_sample(image))
    assert message == f"caption file {tmp_path}/fox.txt is empty"
    message, _ = only_problem(examine_sample(image, caption=caption))
    assert message == "--caption is empty"


def test_byte_order_mark_is_dropped_but_counted(tmp_path: Path) -> None:
    image = write_pair(tmp_path, caption=b"\xef\xbb\xbfa fox")
    assert sample_of(image).caption == "a fox"
    (tmp_path / "fox.txt").write_bytes(b"\xef\xbb\xbfa\xff")
    assert "is damaged UTF-8 (byte 4); " in only_problem(examine_sample(image))[0]


def test_huge_caption_is_not_read_whole(tmp_path: Path) -> None:
    image = write_pair(tmp_path)
    with (tmp_path / "fox.txt").open("wb") as file:
        file.truncate(1 << 40)  # sparse: a terabyte of NULs that takes no room
    assert "is larger than 64 KiB" in only_problem(examine_sample(image))[0]


def test_caption_of_64_kib_is_accepted(tmp_path: Path) -> None:
    image = write_pair(tmp_path, caption=b"x" * 65536)
    assert len(sample_of(image).caption) == 65536


def test_caption_directory_is_a_problem(tmp_path: Path) -> None:
    image = write_pair(tmp_path)
    (tmp_path / "fox.txt").unlink()
    (tmp_path / "fox.txt").mkdir()
    message, _ = only_problem(examine_sample(image))
    assert message == f"caption file {tmp_path}/fox.txt is a directory"


@pytest.mark.parametrize("character", ["\0", "\x1b", "\x0b", "\x7f", "\x85"])
def test_control_character_is_named_with_its_line(tmp_path: Path, character: str) -> None:
    image = write_pair(tmp_path, caption=f"a fox\nin{character} snow")
    message, _ = only_problem(examine_sample(image))
    assert message.endswith(f"holds a character that is no text (U+{ord(character):04X}, line 2)")


def test_caption_argument_of_broken_bytes_is_a_problem(tmp_path: Path) -> None:
    caption = os.fsdecode(b"caf\xe9")
    message, _ = only_problem(examine_sample(write_pair(tmp_path), caption=caption))
    assert message == "--caption holds a character that is no text (U+DCE9, line 1)"


@pytest.mark.parametrize(
    ("caption", "tokens", "about"),
    [
        ("word " * 80, 77, "104"),
        ("x" * 400, 77, "100"),
        ("a fox", 77, None),
        ("a b", 2, "3"),
    ],
)
def test_caption_beyond_the_text_encoder_is_a_warning(
    tmp_path: Path, caption: str, tokens: int, about: str | None
) -> None:
    image = write_pair(tmp_path, caption=caption)
    examination = load_sample(image, text_tokens=tokens)
    expected = [f"has about {about} tokens, but the model reads {tokens}"] if about else []
    assert len(examination.warnings) == len(expected)
    for warning, part in zip(examination.warnings, expected, strict=True):
        assert part in warning.message
        assert "cut" in warning.message


def test_all_problems_are_raised_together(tmp_path: Path) -> None:
    noise = Image.effect_noise((64, 64), 90).convert("RGB")
    image = write_pair(tmp_path, noise, caption=b"\xff")
    image.write_bytes(image.read_bytes()[:2000])
    with pytest.raises(SampleError) as caught:
        load_sample(image, resolution=1024)
    small, cut, not_utf8 = (problem.message for problem in caught.value.problems)
    assert "is 64x64 pixels, too small for resolution 1024" in small
    assert "damaged or cut short" in cut
    assert "is not UTF-8" in not_utf8


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("fox", "fox"),
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


# --- conversion ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fox.png", "fox.tiff", "fox.webp"])
@pytest.mark.parametrize(
    ("orientation", "top"),
    [
        (1, [RED, GREEN]),
        (2, [GREEN, RED]),
        (3, [WHITE, BLUE]),
        (4, [BLUE, WHITE]),
        (5, [RED, BLUE]),
        (6, [BLUE, RED]),
        (7, [WHITE, GREEN]),
        (8, [GREEN, WHITE]),
    ],
)
def test_exif_orientation_is_applied(
    tmp_path: Path, name: str, orientation: int, top: list[tuple[int, int, int]]
) -> None:
    picture = Image.new("RGB", (2, 2))
    for place, colour in enumerate((RED, GREEN, BLUE, WHITE)):
        picture.putpixel((place % 2, place // 2), colour)
    tall = picture.resize((16, 32), Image.Resampling.NEAREST)
    exif = Image.Exif()
    exif[0x0112] = orientation
    result = staged(write_pair(tmp_path, tall, name=name, exif=exif, lossless=True), tmp_path)
    assert result.size == ((16, 32) if orientation < 5 else (32, 16))
    assert [result.getpixel((x, 0)) for x in (0, result.width - 1)] == top


def test_orientation_is_applied_beside_a_tag_that_is_damaged(tmp_path: Path) -> None:
    turned = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    damaged = struct.pack("<HHII", 0x010E, 2, 1000, 0xFFFFFFF)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + turned + damaged + bytes(4)
    assert staged(write_pair(tmp_path, name="fox.jpg", exif=exif), tmp_path).size == (
        32,
        64,
    )


def test_damaged_exif_is_a_warning(tmp_path: Path) -> None:
    image = write_pair(tmp_path, exif=b"Exif\0\0no TIFF header at all")
    [warning] = load_sample(image).warnings
    assert warning.message == f"image {image}: its EXIF data is damaged, so it is taken as upright"


def test_alpha_is_laid_over_white(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (3, 1), (*RED, 255))
    picture.putpixel((1, 0), (*RED, 0))
    picture.putpixel((2, 0), (*RED, 51))
    result = staged(write_pair(tmp_path, picture), tmp_path)
    assert list(result.get_flattened_data()) == [RED, WHITE, (255, 204, 204)]


@pytest.mark.parametrize("transparency", [1, b"\xff\x00"])
def test_palette_transparency_is_laid_over_white(tmp_path: Path, transparency: int | bytes) -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([*BLUE, *RED])
    picture.putpixel((1, 0), 1)
    result = staged(write_pair(tmp_path, picture, transparency=transparency), tmp_path)
    assert list(result.get_flattened_data()) == [BLUE, WHITE]


def test_greyscale_keeps_its_values(tmp_path: Path) -> None:
    ramp = Image.linear_gradient("L")
    result = staged(write_pair(tmp_path, ramp), tmp_path)
    assert [band.tobytes() for band in result.split()] == [ramp.tobytes()] * 3


@pytest.mark.parametrize("name", ["fox.png", "fox.tiff", "fox.pgm"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, name: str) -> None:
    ramp = (np.arange(256, dtype=np.uint16) * 257).reshape(1, 256)
    result = staged(write_pair(tmp_path, Image.fromarray(ramp), name=name), tmp_path)
    assert np.asarray(result)[0, :, 0].tolist() == list(range(256))


def test_transparent_grey_of_sixteen_bits_becomes_white(tmp_path: Path) -> None:
    row = b"\0" + struct.pack(">3H", 0, 1000, 65535)
    data = png((3, 1), 16, 0, row, chunk(b"tRNS", struct.pack(">H", 1000)))
    result = staged(write_pair(tmp_path, data), tmp_path)
    assert list(result.get_flattened_data()) == [(0, 0, 0), WHITE, WHITE]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([0.0, 500.0, 1000.0], [0, 128, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([float("nan"), float("inf"), 0.5], [0, 255, 128]),
        ([0.0, 0.0, 0.0], [0, 0, 0]),
        ([-3e38, 0.0, 3e38], [0, 128, 255]),
    ],
)
def test_floats_are_scaled(values: list[float], expected: list[int]) -> None:
    picture = Image.fromarray(np.array([values], dtype=np.float32))
    result, _ = to_rgb(picture)
    assert list(result.getchannel("R").get_flattened_data()) == expected


@pytest.mark.parametrize("mode", ["I", "I;16", "I;16L", "I;16B"])
def test_every_deep_mode_is_scaled(mode: str) -> None:
    result, _ = to_rgb(Image.new(mode, (2, 2), 32896))
    assert result.getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBX", "RGBA", "RGBa"])
def test_white_stays_white_in_every_plain_mode(mode: str) -> None:
    result, _ = to_rgb(Image.new("LA" if mode == "La" else "RGB", (2, 2), "white").convert(mode))
    assert (result.mode, result.getpixel((0, 0))) == ("RGB", WHITE)


@pytest.mark.parametrize("mode", ["RGB", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "RGBA", "P"])
def test_red_stays_red_in_every_colour_mode(mode: str) -> None:
    result, _ = to_rgb(Image.new("RGB", (2, 2), RED).convert(mode))
    assert is_close(result, RED)


def test_cmyk_jpeg_becomes_rgb(tmp_path: Path) -> None:
    picture = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    result = staged(write_pair(tmp_path, picture, name="fox.jpg", quality=100), tmp_path)
    assert is_close(result, RED)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colour_profile_is_converted_to_srgb(tmp_path: Path, mode: str) -> None:
    picture = Image.new("RGB", (2, 2), RED).convert(mode)
    result = staged(write_pair(tmp_path, picture, icc_profile=swapped_profile()), tmp_path)
    assert is_close(result, GREEN)


def test_alpha_survives_the_colour_profile(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (1, 1), (*RED, 0))
    result = staged(write_pair(tmp_path, picture, icc_profile=swapped_profile()), tmp_path)
    assert result.getpixel((0, 0)) == WHITE


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_grey_profile_is_converted_to_srgb(tmp_path: Path, mode: str) -> None:
    picture = Image.new("L", (2, 2), 128).convert(mode)
    if mode == "I;16":
        picture = Image.new(mode, (2, 2), 128 * 257)
    gamma_of_one = b"curv" + bytes(8)
    icc = profile(b"GRAY", b"XYZ ", {b"kTRC": gamma_of_one})
    image = write_pair(tmp_path, picture, icc_profile=icc)
    assert is_close(staged(image, tmp_path), (188, 188, 188))


def test_cmyk_is_converted_by_its_own_profile(tmp_path: Path) -> None:
    ramp = bytes(range(256))
    identity = struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
    corners = [(0, 128, 128)] * 16  # Lab of each mix of full inks, from none to all four
    corners[0b0000], corners[0b0110] = (255, 128, 128), (128, 128, 128)
    colours = b"".join(map(bytes, corners))
    table = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + identity + ramp * 4
    icc = profile(b"CMYK", b"Lab ", {b"A2B0": table + colours + ramp * 3})
    picture = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    image = write_pair(tmp_path, picture, name="fox.jpg", icc_profile=icc)
    assert is_close(staged(image, tmp_path), (119, 119, 119))


def test_srgb_profile_changes_nothing(tmp_path: Path) -> None:
    noise = Image.merge("RGB", [Image.effect_noise((32, 32), 90) for _ in "RGB"])
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    result = staged(write_pair(tmp_path, noise, icc_profile=icc), tmp_path)
    assert result.tobytes() == noise.tobytes()


@pytest.mark.parametrize("icc", [b"no profile", swapped_profile()[:300]])
def test_damaged_colour_profile_is_ignored_with_a_warning(tmp_path: Path, icc: bytes) -> None:
    image = write_pair(tmp_path, icc_profile=icc)
    [warning] = load_sample(image).warnings
    assert warning.message.startswith(f"image {image}: its colour profile is damaged")
    assert staged(image, tmp_path).tobytes() == LEFT_RED.tobytes()


def test_profile_for_other_colours_is_ignored_with_a_warning(tmp_path: Path) -> None:
    picture = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    image = write_pair(tmp_path, picture, name="fox.jpg", icc_profile=swapped_profile())
    warning, _ = load_sample(image).warnings
    assert warning.message.endswith("its colour profile is not one for its pixels (CMYK)")


def test_phone_picture_with_a_second_frame_is_a_still(tmp_path: Path) -> None:
    depth = [Image.new("RGB", (64, 32))]
    image = write_pair(tmp_path, name="fox.mpo", save_all=True, append_images=depth, quality=100)
    result = staged(image.rename(tmp_path / "fox.jpg"), tmp_path)
    assert is_close(result.crop((0, 0, 16, 16)), RED)


# --- staging -------------------------------------------------------------------------------------


def test_staged_caption_ends_with_one_newline(tmp_path: Path) -> None:
    staged(write_pair(tmp_path, caption="\n a füchsin \n in snow \n\n"), tmp_path)
    assert (tmp_path / "staged/fox.txt").read_bytes() == "a füchsin\nin snow\n".encode()


def test_staging_again_gives_the_same_bytes_and_leaves_nothing_else(
    tmp_path: Path,
) -> None:
    image = write_pair(tmp_path)
    staged(image, tmp_path)
    first = (tmp_path / "staged/fox.png").read_bytes()
    stage_sample(sample_of(image), Stage(tmp_path / "staged", tmp_path / "references"))
    assert (tmp_path / "staged/fox.png").read_bytes() == first
    assert {path.name for path in (tmp_path / "staged").iterdir()} == {
        "fox.png",
        "fox.txt",
    }


@pytest.mark.parametrize("change", ["other pixels", "cut short", "gone"])
def test_image_that_changed_meanwhile_is_not_staged(tmp_path: Path, change: str) -> None:
    image = write_pair(tmp_path)
    sample = sample_of(image)
    if change == "gone":
        image.unlink()
    elif change == "cut short":
        image.write_bytes(image.read_bytes()[:60])
    else:
        LEFT_RED.rotate(180).save(image)
    with pytest.raises(SampleError, match="has changed since it was examined"):
        stage_sample(sample, Stage(tmp_path, tmp_path / "references"))


def test_failed_staging_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    sample = sample_of(write_pair(tmp_path))
    out = tmp_path / "staged"
    out.mkdir()
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        stage_sample(sample, Stage(out, tmp_path / "references"))
    assert list(out.iterdir()) == []


# --- a reference ---------------------------------------------------------------------------------


def write_triple(folder: Path, reference: Image.Image | bytes | None = None) -> tuple[Path, Path]:
    """Write a pair to edit into, and the picture before the edit, on its side by EXIF."""
    before = folder / "before.jpg"
    if isinstance(reference, bytes):
        before.write_bytes(reference)
    else:
        exif = Image.Exif()
        exif[0x0112] = 6
        (reference or Image.new("RGB", (64, 32), GREEN)).save(before, quality=95, exif=exif)
    return write_pair(folder, caption="make it red"), before


def only_problem_with(reference: Path | None, *, edits: bool, folder: Path) -> tuple[str, str]:
    return only_problem(examine_sample(folder / "fox.png", reference=reference, edits=edits))


def test_a_family_that_edits_needs_a_reference(tmp_path: Path) -> None:
    write_triple(tmp_path)
    message, hint = only_problem_with(None, edits=True, folder=tmp_path)
    assert message.startswith("no reference: this family edits a picture")
    assert "--source-image" in hint


def test_any_other_takes_none(tmp_path: Path) -> None:
    _, before = write_triple(tmp_path)
    message, hint = only_problem_with(before, edits=False, folder=tmp_path)
    assert message == f"reference {before}: this family generates from text alone"
    assert hint.startswith("drop --source-image")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "is empty"), (b"no picture", "is no picture"), (None, "does not exist")],
)
def test_an_unfit_reference_is_refused_by_that_name(
    content: bytes | None, words: str, tmp_path: Path
) -> None:
    _, before = write_triple(tmp_path, content)
    if content is None:
        before.unlink()
    message, _ = only_problem_with(before, edits=True, folder=tmp_path)
    assert message.startswith(f"reference {before}")
    assert words in message


def test_faults_of_both_pictures_come_together(tmp_path: Path) -> None:
    image, before = write_triple(tmp_path, b"")
    image.write_bytes(b"")
    found = examine_sample(image, reference=before, edits=True)
    assert [problem.message.split()[0] for problem in found.problems] == ["image", "reference"]


def test_a_reference_that_is_the_image_is_warned_of(tmp_path: Path) -> None:
    image, _ = write_triple(tmp_path)
    found = examine_sample(image, reference=image, edits=True)
    assert [problem.message for problem in found.warnings] == [
        f"reference {image} is the image itself: there is no edit to learn"
    ]


def test_the_reference_belongs_to_what_is_trained(tmp_path: Path) -> None:
    image, before = write_triple(tmp_path)
    with_green = load_sample(image, reference=before, edits=True).sample
    write_triple(tmp_path, Image.new("RGB", (64, 32), BLUE))
    with_blue = load_sample(image, reference=before, edits=True).sample
    assert with_green
    assert with_blue
    assert len({with_green.sha256, with_blue.sha256, sample_of(image).sha256}) == 3


def test_the_reference_is_staged_upright_under_the_images_name(tmp_path: Path) -> None:
    image, before = write_triple(tmp_path)
    sample = load_sample(image, reference=before, edits=True).sample
    assert sample
    data, references = tmp_path / "data", tmp_path / "references"
    data.mkdir()
    references.mkdir()
    stage_sample(sample, Stage(data, references))
    assert sorted(path.name for path in references.iterdir()) == ["fox.png", "fox.txt"]
    assert (references / "fox.txt").read_text() == "make it red\n"
    with Image.open(references / "fox.png") as picture:
        assert (picture.mode, picture.size) == ("RGB", (32, 64))
        assert is_close(picture, GREEN)
    assert measure_picture(before) == (32, 64)


@pytest.mark.parametrize("which", ["image", "reference"])
def test_a_triple_of_which_one_changed_meanwhile_is_not_staged(which: str, tmp_path: Path) -> None:
    image, before = write_triple(tmp_path)
    sample = load_sample(image, reference=before, edits=True).sample
    assert sample
    Image.new("RGB", (8, 8)).save(image if which == "image" else before)
    words = re.escape(f"{image} or {before} has changed since it was examined")
    with pytest.raises(SampleError, match=words):
        stage_sample(sample, Stage(tmp_path / "data", tmp_path / "references"))
    assert not (tmp_path / "data").exists()


# --- hostile bytes -------------------------------------------------------------------------------


def mutated(data: bytes, rng: random.Random) -> bytes:
    result = bytearray(data)
    for _ in range(rng.choice((1, 2, 8))):
        # Half of the damage goes to the start, where the headers are.
        place = rng.randrange(len(result) if rng.random() < 0.5 else min(len(result), 100))
        match rng.choice(("flip", "flip", "insert", "truncate", "extreme")):
            case "flip":
                result[place] ^= 1 << rng.randrange(8)
            case "insert":
                result[place:place] = rng.randbytes(rng.randrange(1, 9))
            case "truncate":
                del result[place + 1 :]
            case "extreme":
                result[place : place + 4] = rng.choice((b"\xff" * 4, b"\0" * 4))
    return bytes(result)


def picture_seeds() -> list[bytes]:
    ramp = Image.linear_gradient("L").resize((40, 24)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    seeds = []
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"):
        for mode in ("RGB", "L"):
            buffer = BytesIO()
            picture = ramp.convert(mode)
            picture.save(buffer, kind, exif=exif, icc_profile=swapped_profile())
            seeds.append(buffer.getvalue())
    return seeds


@pytest.mark.parametrize("seed", range(10))
def test_mutated_pairs_end_in_an_examination(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    seeds = picture_seeds()
    for _ in range(100):
        data = mutated(rng.choice(seeds), rng)
        caption = mutated("\ufeffa füchsin\r\nim Schnee".encode(), rng)
        image = write_pair(tmp_path, data, caption)
        examination = examine_sample(image, resolution=16, text_tokens=4)
        assert (examination.sample is None) == bool(examination.problems)
        assert all(
            problem.hint and problem.message.isprintable() for problem in examination.problems
        )
        assert (image.read_bytes(), (tmp_path / "fox.txt").read_bytes()) == (
            data,
            caption,
        )
