"""What a picture looks like: colours by their curves, phones' files, and what is doubtful."""

import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from glance.core.pictures import count_frames, open_picture, to_rgb

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


# --- colours -------------------------------------------------------------------------------------


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


def test_a_grey_one_is_judged_as_well(tmp_path: Path) -> None:
    grey = NOISE.convert("L")
    path = saved(grey, tmp_path / "x.png", icc_profile=with_curves(1.0))

    assert np.asarray(seen(path)[0]).mean() > np.asarray(grey).mean() + 20


@pytest.mark.parametrize(
    ("gamma", "before", "after"), [(100000, 55, 128), (45455, 55, 55), (55556, 128, 145)]
)
def test_a_png_says_its_gamma(tmp_path: Path, gamma: int, before: int, after: int) -> None:
    picture = Image.new("RGB", (8, 8), (before,) * 3)
    picture.putpixel((0, 0), (255, 255, 255))
    data = BytesIO()
    picture.save(data, "PNG")
    start, end = data.getvalue()[:33], data.getvalue()[33:]
    from zlib import crc32

    chunk = b"gAMA" + struct.pack(">I", gamma)
    (tmp_path / "x.png").write_bytes(
        start + struct.pack(">I", 4) + chunk + struct.pack(">I", crc32(chunk)) + end
    )

    pixel = seen(tmp_path / "x.png")[0].getpixel((5, 5))

    assert isinstance(pixel, tuple)
    assert max(abs(level - after) for level in pixel) <= 1


def test_adobe_rgb_without_a_profile_is_said(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA005] = {1: "R03"}

    _, doubts = seen(saved(NOISE, tmp_path / "x.jpg", exif=exif))

    assert doubts == ["it says Adobe RGB and brings no profile, so its colours are taken as sRGB"]


# --- phones' files -------------------------------------------------------------------------------


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


def test_of_an_ultra_hdr_photo_the_picture_is_taken_and_not_its_gain_map(tmp_path: Path) -> None:
    gain = Image.new("L", (24, 16), 128).convert("RGB")
    xmp = b'<x:xmpmeta><rdf:Description hdrgm:Version="1.0"/></x:xmpmeta>'
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "x.mpo"
    CORNER.save(path, save_all=True, append_images=[gain], exif=exif, xmp=xmp, quality=95)

    pixels, _ = seen(path.rename(tmp_path / "PXL_20240101.jpg"))

    assert (pixels.size, corners(pixels)) == ((64, 96), ["white", "red", "blue"])


def adobe_jpeg(picture: Image.Image, *, transform: int) -> bytes:
    """A JPEG of four inverted inks as Photoshop writes it; 2: the first three as YCbCr."""
    red, green, blue = picture.split()
    if transform == 2:
        inverted = Image.merge("RGB", [one.point(lambda v: 255 - v) for one in (red, green, blue)])
        inks = [one.point(lambda v: 255 - v) for one in inverted.convert("YCbCr").split()]
    else:
        inks = [one.point(lambda v: 255 - v) for one in (red, green, blue)]
    data = BytesIO()
    Image.merge("CMYK", [*inks, Image.new("L", picture.size, 0)]).save(data, "JPEG", quality=100)
    whole = bytearray(data.getvalue())
    whole[whole.index(b"Adobe") + 11] = transform
    return bytes(whole)


@pytest.mark.parametrize("transform", [0, 2])
def test_adobes_inverted_inks_are_shown_as_photoshop_shows_them(
    tmp_path: Path, transform: int
) -> None:
    (tmp_path / "x.jpg").write_bytes(adobe_jpeg(CORNER, transform=transform))

    assert corners(seen(tmp_path / "x.jpg")[0]) == ORIENTATIONS[1]


# --- what is doubtful: one thing each ------------------------------------------------------------


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
        (Image.new("RGBA", (64, 64)), "it is wholly transparent: all that is trained is white"),
        (Image.new("RGB", (64, 64)), "it is wholly black: there is nothing to learn"),
        (Image.new("L", (64, 64), 255), "it is wholly white: there is nothing to learn"),
        (Image.new("RGB", (64, 64), "teal"), "it is of a single colour: there is nothing to learn"),
        (NOISE.point(lambda v: 100 + v // 64), "it is next to a single colour: 4 levels of 256"),
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
