"""Draw the sample pairs: data/glance.png (1024x1024), and the demo's, of the small model's world.

data/by-day.png is what families that edit begin with. The small model's prompts, which ship with
glance, are written as well.

`uv run python scripts/draw_sample.py`. Our own work, drawn with numpy and Pillow.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from glance.evaluation.small_world.draw import draw as draw_scene
from glance.evaluation.small_world.world import Scene, describe, judging_captions, teaching_captions

ROOT = Path(__file__).parents[1]
CAPTION = (
    "a white lighthouse with a red lantern room on a dark green hill above the sea at sunset, "
    "a low yellow sun, orange and violet sky\n"
)
SIZE = 2048  # drawn at twice the size, then reduced
HORIZON = 1250


def main() -> None:
    """Write the pictures, and the captions of the pairs."""
    picture = draw().resize((1024, 1024), Image.Resampling.LANCZOS)
    save(picture, CAPTION, ROOT / "data" / "glance.png")
    by_day = draw_by_day().resize((1024, 1024), Image.Resampling.LANCZOS)
    by_day.save(ROOT / "data" / "by-day.png", optimize=True)
    scene = Scene("sunset", "large", "low", "right", "sea", "mountains", "boat")
    small = Image.fromarray(draw_scene(scene))
    save(small, describe(scene) + "\n", ROOT / "glance" / "assets" / "sunset.png")
    for purpose, captions in (("teaching", teaching_captions()), ("judging", judging_captions())):
        text = "".join(f"{caption}\n" for caption in captions)
        path = ROOT / "glance" / "assets" / "prompts" / f"small-flux-{purpose}.txt"
        path.write_text(text, encoding="utf-8")


def save(picture: Image.Image, caption: str, path: Path) -> None:
    """Write a picture, and its caption beside it."""
    picture.save(path, optimize=True)
    path.with_suffix(".txt").write_text(caption, encoding="utf-8")


def draw() -> Image.Image:
    """Return the picture at SIZE x SIZE."""
    picture = gradient([(0, (58, 40, 92)), (600, (176, 84, 112)), (1000, (242, 146, 84)),
                        (HORIZON, (255, 208, 122)), (HORIZON + 1, (214, 136, 96)),
                        (SIZE, (40, 52, 92))])  # fmt: skip
    glow(picture, (1440, 1130), 700, (255, 226, 150))
    pen = ImageDraw.Draw(picture)
    pen.ellipse((1310, 1000, 1570, 1260), fill=(255, 236, 170))
    pen.rectangle((0, HORIZON, SIZE, HORIZON + 4), fill=(206, 124, 92))
    draw_water(pen)
    draw_lighthouse(pen)
    draw_hill(pen)
    return picture


def draw_by_day() -> Image.Image:
    """Return the same place at noon."""
    picture = gradient([(0, (70, 130, 200)), (1000, (158, 200, 234)), (HORIZON, (206, 228, 240)),
                        (HORIZON + 1, (86, 146, 178)), (SIZE, (24, 70, 116))])  # fmt: skip
    pen = ImageDraw.Draw(picture)
    draw_lighthouse(pen)
    draw_hill(pen)
    return picture


def gradient(stops: list[tuple[int, tuple[int, int, int]]]) -> Image.Image:
    """Return vertical bands that run smoothly from stop to stop."""
    rows = np.arange(SIZE)
    places = [place for place, _ in stops]
    channels = [np.interp(rows, places, [colour[c] for _, colour in stops]) for c in range(3)]
    column = np.stack(channels, axis=-1).astype(np.uint8)
    return Image.fromarray(np.repeat(column[:, None], SIZE, axis=1))


def glow(
    picture: Image.Image,
    centre: tuple[int, int],
    radius: int,
    colour: tuple[int, int, int],
) -> None:
    """Lighten the sky around the sun."""
    mask = Image.new("L", picture.size)
    x, y = centre
    ImageDraw.Draw(mask).ellipse(
        (x - radius // 2, y - radius // 2, x + radius // 2, y + radius // 2), fill=150
    )
    mask = mask.filter(ImageFilter.GaussianBlur(radius // 3))
    ImageDraw.Draw(mask).rectangle((0, HORIZON, SIZE, SIZE), fill=0)
    picture.paste(Image.new("RGB", picture.size, colour), mask=mask)


def draw_water(pen: ImageDraw.ImageDraw) -> None:
    """Lay the sun's path on the sea."""
    random = np.random.default_rng(7)
    for row in range(HORIZON + 12, SIZE, 22):
        width = 120 + (row - HORIZON) * 0.35
        for _ in range(3):
            x = 1440 + random.normal(0, width / 2)
            half = random.uniform(20, 90)
            pen.ellipse((x - half, row, x + half, row + 7), fill=(255, 214, 140))


def draw_hill(pen: ImageDraw.ImageDraw) -> None:
    """Draw the headland at the left."""
    xs = np.linspace(0, 1250, 200)
    ys = 1010 + 1040 * (xs / 1250) ** 3.6 + 24 * np.sin(xs / 90)
    pen.polygon([*zip(xs, ys, strict=True), (1250, SIZE), (0, SIZE)], fill=(30, 62, 52))
    front = 1330 + 760 * (xs / 1250) ** 2.2 + 18 * np.sin(xs / 60 + 1)
    pen.polygon([*zip(xs, front, strict=True), (1250, SIZE), (0, SIZE)], fill=(20, 44, 42))


def draw_lighthouse(pen: ImageDraw.ImageDraw) -> None:
    """Draw the tower, its gallery and its lantern."""
    pen.polygon([(430, 1130), (480, 480), (620, 480), (670, 1130)], fill=(244, 238, 226))
    pen.polygon([(580, 1130), (570, 480), (620, 480), (670, 1130)], fill=(206, 190, 190))
    pen.rectangle((452, 452, 648, 486), fill=(60, 44, 56))
    pen.rectangle((490, 350, 610, 452), fill=(196, 52, 44))
    pen.rectangle((512, 368, 588, 440), fill=(255, 232, 150))
    pen.polygon([(470, 352), (550, 262), (630, 352)], fill=(150, 36, 36))
    for top in (620, 800):
        pen.rectangle((528, top, 562, top + 64), fill=(70, 60, 84))


if __name__ == "__main__":
    main()
