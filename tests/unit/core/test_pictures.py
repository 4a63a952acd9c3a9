"""What a picture looks like: colours by their curves, phones' files, and what is doubtful."""

import struct
from io import BytesIO
from pathlib import Path
from typing import Any
from zlib import compress, crc32

import numpy as np
import pytest
from PIL import Image, ImageCms

from glance.core.pictures import count_frames, open_picture, to_rgb

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
NOISE = Image.merge("RGB", [Image.effect_noise((64, 48), 90) for _ in "RGB"])
CORNER = Image.new("RGB", (96, 64), "blue")  # red is where it begins
CORNER.paste("red", (0, 0, 48, 32))
CORNER.paste("white", (0, 32, 48, 64))


def seen(path: Path) -> tuple[Image.Image, list[str]]:
    with open_picture(path) as picture:
        assert count_frames(picture) == 1
        pixels, doubts = to_rgb(picture)
    assert all(doubt.hint for doubt in doubts)
    return pixels, [doubt.message for doubt in doubts]


def saved(picture: Image.Image, path: Path, **options: Any) -> Path:
    picture.save(path, **options)
    return path


def with_curves(gamma: float) -> bytes:
    """The sRGB profile, by its name as well, with other curves."""
    icc = bytearray(SRGB)
    for number in range(struct.unpack_from(">I", icc, 128)[0]):
        tag, start, _ = struct.unpack_from(">4sII", icc, 132 + 12 * number)
        if tag in (b"rTRC", b"gTRC", b"bTRC"):
            struct.pack_into(">4sIHHi", icc, start, b"para", 0, 0, 0, round(gamma * 65536))
    return bytes(icc)


def test_a_profile_called_srgb_is_judged_by_its_curves(tmp_path: Path) -> None:
    linear = saved(NOISE, tmp_path / "x.png", icc_profile=with_curves(1.0))

    pixels, doubts = seen(linear)

    assert b"s\0R\0G\0B" in with_curves(1.0)
    light = np.asarray(NOISE) / 255
    meant = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(np.asarray(pixels) - 255 * meant).max() <= 2
    assert doubts == []


def test_one_that_is_srgb_under_another_name_changes_nothing(tmp_path: Path) -> None:
    icc = SRGB.replace("sRGB".encode("utf-16-be"), "mine".encode("utf-16-be"))
    path = saved(NOISE, tmp_path / "x.png", icc_profile=icc)

    assert seen(path)[0].tobytes() == NOISE.tobytes()


@pytest.mark.parametrize(
    ("gamma", "before", "after"), [(100000, 55, 128), (45455, 55, 55), (55556, 128, 145)]
)
def test_a_png_says_its_gamma(tmp_path: Path, gamma: int, before: int, after: int) -> None:
    picture = Image.new("RGB", (8, 8), (before,) * 3)
    picture.putpixel((0, 0), (255, 255, 255))
    data = BytesIO()
    picture.save(data, "PNG")
    start, end = data.getvalue()[:33], data.getvalue()[33:]
    said = chunk(b"gAMA", struct.pack(">I", gamma))
    (tmp_path / "x.png").write_bytes(start + said + end)

    pixel = seen(tmp_path / "x.png")[0].getpixel((5, 5))

    assert isinstance(pixel, tuple)
    assert max(abs(level - after) for level in pixel) <= 1


def test_adobe_rgb_without_a_profile_is_said(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA005] = {1: "R03"}

    _, doubts = seen(saved(NOISE, tmp_path / "x.jpg", exif=exif))

    assert doubts == ["it says Adobe RGB and brings no profile, so its colours are taken as sRGB"]


def corners(pixels: Image.Image) -> list[str]:
    """Name the colours of the corners: upper left, upper right, lower left."""
    names = {(1, 0, 0): "red", (0, 0, 1): "blue", (1, 1, 1): "white", (0, 1, 0): "green"}
    right, below = pixels.width - 9, pixels.height - 9
    found = [pixels.getpixel(place) for place in ((8, 8), (right, 8), (8, below))]
    return [names[tuple(round(level / 255) for level in one)] for one in found]  # type: ignore[union-attr, misc]


ORIENTATIONS = {
    1: ["red", "blue", "white"],
    2: ["blue", "red", "blue"],
    3: ["blue", "white", "blue"],
    4: ["white", "blue", "red"],
    5: ["red", "white", "blue"],
    6: ["white", "red", "blue"],
    7: ["blue", "blue", "white"],
    8: ["blue", "blue", "red"],
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tiff", "avif", "mpo"])
def test_a_picture_is_shown_upright_once(tmp_path: Path, ending: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    more = {"save_all": True, "append_images": [NOISE]} if ending == "mpo" else {}

    pixels, doubts = seen(saved(CORNER, tmp_path / f"x.{ending}", exif=exif, quality=95, **more))

    assert corners(pixels) == ORIENTATIONS[orientation]
    assert pixels.size == ((96, 64) if orientation < 5 else (64, 96))
    assert doubts == []


def pixels_of(path: Path) -> list[Any]:
    return list(seen(path)[0].get_flattened_data())


def is_close(picture: Image.Image, colour: tuple[int, int, int]) -> bool:
    return bool(np.abs(np.asarray(picture).astype(int) - colour).max() <= 6)


def test_a_damaged_tag_hides_no_orientation_and_damaged_exif_is_doubted(tmp_path: Path) -> None:
    turned = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    damaged = struct.pack("<HHII", 0x010E, 2, 1000, 0xFFFFFFF)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + turned + damaged + bytes(4)
    assert seen(saved(CORNER, tmp_path / "x.jpg", exif=exif))[0].size == (64, 96)
    path = saved(CORNER, tmp_path / "x.png", exif=b"Exif\0\0no TIFF header at all")
    assert seen(path)[1] == ["its EXIF data is damaged, so it is taken as upright"]


def test_alpha_is_laid_over_white(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (3, 1), (*RED, 255))
    picture.putpixel((1, 0), (*RED, 0))
    picture.putpixel((2, 0), (*RED, 51))
    assert pixels_of(saved(picture, tmp_path / "x.png")) == [RED, WHITE, (255, 204, 204)]
    path = saved(picture, tmp_path / "y.png", icc_profile=swapped_profile())
    assert is_close(seen(path)[0].crop((1, 0, 2, 1)), WHITE)


@pytest.mark.parametrize("transparency", [1, b"\xff\x00"])
def test_palette_transparency_is_laid_over_white(tmp_path: Path, transparency: int | bytes) -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([*BLUE, *RED])
    picture.putpixel((1, 0), 1)
    path = saved(picture, tmp_path / "x.png", transparency=transparency)
    assert pixels_of(path) == [BLUE, WHITE]


@pytest.mark.parametrize("name", ["x.png", "x.tiff", "x.pgm"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, name: str) -> None:
    ramp = (np.arange(256, dtype=np.uint16) * 257).reshape(1, 256)
    result, _ = seen(saved(Image.fromarray(ramp), tmp_path / name))
    assert np.asarray(result)[0, :, 0].tolist() == list(range(256))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc32(kind + data))


def test_transparent_grey_of_sixteen_bits_becomes_white(tmp_path: Path) -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 3, 1, 16, 0, 0, 0, 0))
    clear = chunk(b"tRNS", struct.pack(">H", 1000))
    row = compress(b"\0" + struct.pack(">3H", 0, 1000, 65535))
    data = header + clear + chunk(b"IDAT", row) + chunk(b"IEND", b"")
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    assert pixels_of(tmp_path / "x.png") == [(0, 0, 0), WHITE, WHITE]


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


WHITE_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBX", "RGBA", "RGBa")
RED_MODES = ("RGB", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "RGBA", "P")


@pytest.mark.parametrize(
    ("mode", "colour"),
    [*((mode, WHITE) for mode in WHITE_MODES), *((mode, RED) for mode in RED_MODES)],
)
def test_colours_stay_in_every_mode(mode: str, colour: tuple[int, int, int]) -> None:
    begin = "LA" if mode == "La" else "RGB"
    result, _ = to_rgb(
        Image.new(begin, (2, 2), colour if begin == "RGB" else "white").convert(mode)
    )
    assert result.mode == "RGB"
    assert is_close(result, colour)


def swapped_profile() -> bytes:
    """An RGB profile whose red is green, under a name that is not sRGB."""
    icc = SRGB.replace("sRGB".encode("utf-16-be"), "test".encode("utf-16-be"))
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


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colour_profile_is_converted_to_srgb(tmp_path: Path, mode: str) -> None:
    picture = Image.new("RGB", (2, 2), RED).convert(mode)
    path = saved(picture, tmp_path / "x.png", icc_profile=swapped_profile())
    assert is_close(seen(path)[0], (0, 255, 0))


@pytest.mark.parametrize(("mode", "grey"), [("L", 128), ("LA", (128, 255)), ("I;16", 128 * 257)])
def test_grey_profile_is_converted_to_srgb(tmp_path: Path, mode: str, grey: Any) -> None:
    icc = profile(b"GRAY", b"XYZ ", {b"kTRC": b"curv" + bytes(8)})  # a gamma of one
    path = saved(Image.new(mode, (2, 2), grey), tmp_path / "x.png", icc_profile=icc)
    assert is_close(seen(path)[0], (188, 188, 188))


INKS = Image.new("CMYK", (16, 16), (0, 255, 255, 0))


def test_cmyk_is_converted_by_its_own_profile(tmp_path: Path) -> None:
    ramp = bytes(range(256))
    identity = struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
    corners = [(0, 128, 128)] * 16  # Lab of each mix of full inks, from none to all four
    corners[0b0000], corners[0b0110] = (255, 128, 128), (128, 128, 128)
    colours = b"".join(map(bytes, corners))
    table = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + identity + ramp * 4
    icc = profile(b"CMYK", b"Lab ", {b"A2B0": table + colours + ramp * 3})
    assert is_close(seen(saved(INKS, tmp_path / "x.jpg", quality=100))[0], RED)
    assert is_close(seen(saved(INKS, tmp_path / "y.jpg", icc_profile=icc))[0], (119, 119, 119))


@pytest.mark.parametrize("icc", [b"no profile", swapped_profile()[:300]])
def test_damaged_colour_profile_is_ignored_with_a_doubt(tmp_path: Path, icc: bytes) -> None:
    pixels, doubts = seen(saved(NOISE, tmp_path / "x.png", icc_profile=icc))
    assert doubts == ["its colour profile is damaged, so its colours are taken as sRGB"]
    assert pixels.tobytes() == NOISE.tobytes()


def test_profile_for_other_colours_is_ignored_with_a_doubt(tmp_path: Path) -> None:
    _, doubts = seen(saved(INKS, tmp_path / "x.jpg", icc_profile=swapped_profile()))
    assert doubts[0] == "its colour profile is not one for its pixels (CMYK)"


def half_clear(alpha: int) -> Image.Image:
    picture = NOISE.convert("RGBA")
    picture.paste((0, 0, 0, alpha), (0, 0, 32, 48))
    return picture


DEEP = (np.asarray(NOISE.convert("L")).astype(np.uint16) << 4) + 15  # 12 bits


@pytest.mark.parametrize(
    ("picture", "doubt"),
    [
        (half_clear(0), "it is transparent in places: there it is trained as white"),
        (half_clear(128), "it is transparent in places: there it is trained as white"),
        (half_clear(255), None),
        (Image.new("RGBA", (64, 64)), "it is fully transparent: only white would be trained"),
        (Image.new("RGB", (64, 64)), "it is wholly black: there is nothing to learn"),
        (Image.new("L", (64, 64), 255), "it is wholly white: there is nothing to learn"),
        (Image.new("RGB", (64, 64), "teal"), "it is of a single colour: there is nothing to learn"),
        (NOISE.point(lambda v: 100 + v // 64), "it is almost a single colour: 4 levels of 256"),
        (Image.fromarray(DEEP), "it is nearly black: its brightest value is 16 of 255"),
        (NOISE.point(lambda v: v // 16), "it is nearly black: its brightest value is 15 of 255"),
        (NOISE.point(lambda v: v // 2), None),
    ],
)
def test_what_can_hardly_be_meant_is_said_once(
    tmp_path: Path, picture: Image.Image, doubt: str | None
) -> None:
    _, doubts = seen(saved(picture, tmp_path / "x.png"))

    assert doubts == ([] if doubt is None else [doubt])
