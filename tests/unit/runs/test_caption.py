"""Captions as people bring them: other encodings, other files, other programs' words.

A remedy is run as it is printed: it must work, and leave what the user has as it was.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from glance.core.encoding import ForeignText, decode_text, guess
from glance.core.errors import Problem
from glance.runs.sample import examine_sample

SMART = b"a landscape \x96 dusk\x92s light\n"
WORDS = {
    "GB18030": "黄昏的风景",
    "BIG5": "黃昏的風景",
    "CP932": "夕暮れの風景、赤い狐",
    "EUC-JP": "夕暮れの風景",
    "CP949": "노을 속의 빨간 여우",
    "CP1251": "пейзаж на закате",
    "KOI8-R": "пейзаж на закате",
    "CP866": "пейзаж на закате",
    "CP1252": "un zorro en la montaña, ¿qué?",
    "CP1250": "příliš žluťoučký kůň",
    "CP1253": "τοπίο στο σούρουπο",
    "CP1254": "k\u0131z\u0131l tilki ağaçta şark\u0131",
    "CP1255": "נוף בשקיעה",
    "CP1256": "منظر طبيعي عند الغروب",
    "CP874": "ทิวทัศน์",
    "MACINTOSH": "un café",
    "CP850": "ein Fuchs über",
    "UTF-16LE": "黄昏的风景",
    "UTF-16BE": "黄昏的风景",
}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A sound picture whose name a shell would split, without a caption."""
    path = tmp_path / "work" / "my 'red' fox.png"
    Image.radial_gradient("L").resize((512, 512)).convert("RGB").save(path)
    return path


def refused(image: Path, caption: bytes | str) -> Problem:
    data = caption.encode() if isinstance(caption, str) else caption
    image.with_suffix(".txt").write_bytes(data)
    examination = examine_sample(image)
    assert examination.sample is None
    [problem] = examination.problems
    assert problem.hint
    return problem


def warned(image: Path, caption: str) -> list[str]:
    image.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return [warning.message for warning in examine_sample(image).warnings]


def paste(command: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command,
        shell=True,
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path},
    )


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("a fox\r\nin Köln".encode("utf-16"), "a fox\nin Köln"),
        (SMART, "a landscape \u2013 dusk\u2019s light"),
        (WORDS["GB18030"].encode("gbk"), WORDS["GB18030"]),
        ("夕暮れの風景".encode()[:-1], "夕暮れの風"),
        ("夕暮れ".encode() + b"\xff" + "の風景".encode(), "夕暮れの風景"),
    ],
    ids=["marked", "smart", "guessed", "cut short", "damaged within"],
)
def test_the_printed_command_makes_a_caption_that_is_accepted(
    image: Path, data: bytes, text: str
) -> None:
    problem = refused(image, data)

    done = paste(problem.hint or "")

    assert done.stdout == f"fit to train on: {image}, 512x512\n", done.stderr
    assert image.with_suffix(".txt").read_bytes() == data
    image.with_suffix(".txt").unlink()
    image.with_suffix(".utf8.txt").rename(image.with_suffix(".txt"))
    sample = examine_sample(image).sample
    assert sample is not None
    assert sample.caption == text


@pytest.mark.parametrize("taken", ["my 'red' fox.utf8.txt", "my 'red' fox.utf8-2.txt"])
def test_the_printed_command_replaces_nothing(image: Path, taken: str) -> None:
    image.with_name("my 'red' fox.utf8.txt").write_text("mine")
    hint = refused(image, SMART).hint or ""
    image.with_name(taken).write_text("mine, made meanwhile")

    done = paste(hint)

    assert image.with_name(taken).read_text() == "mine, made meanwhile"
    assert (done.returncode == 0) == (taken == "my 'red' fox.utf8.txt")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("a fox".encode("utf-32"), "UTF-32 by its byte mark"),
        (b"\0\0\xfe\xff" + "a fox".encode("utf-32-be"), "UTF-32 by its byte mark"),
        ("a fox".encode("utf-16"), "UTF-16 by its byte mark"),
        (b"\xfe\xff" + "黄昏".encode("utf-16-be"), "UTF-16 by its byte mark"),
        (b"\x84\x31\x95\x33" + "黄昏".encode("gb18030"), "GB18030 by its byte mark"),
        ("a fox".encode("utf-16-le"), "UTF-16LE by its zero bytes"),
        ("a füchsin".encode("utf-16-be"), "UTF-16BE by its zero bytes"),
        ("лиса на снегу".encode("utf-16-le"), "UTF-16LE by its zero bytes"),
        ("a 狐狸".encode("utf-32-le"), "UTF-32LE by its zero bytes"),
        ("a fox".encode("utf-32-be"), "UTF-32BE by its zero bytes"),
        (SMART, "CP1252 by its quotes, dashes or dots"),
    ],
)
def test_an_encoding_is_named_where_the_bytes_prove_it(image: Path, data: bytes, told: str) -> None:
    found = decode_text(data)

    assert isinstance(found, ForeignText)
    assert found.explain("it") == f"it is {told}, not UTF-8"
    [reading] = found.readings
    command, target = found.conversion(image)
    image.write_bytes(data)
    assert paste(command).returncode == 0
    assert target.read_text(encoding="utf-8").removeprefix("\ufeff") == reading.text


@pytest.mark.parametrize("encoding", WORDS)
def test_else_it_is_shown_what_the_bytes_may_read_as(image: Path, encoding: str) -> None:
    """The right reading is among the few that are shown; iconv and Python agree on its name."""
    data = WORDS[encoding].encode(encoding)
    found = decode_text(data)

    assert isinstance(found, ForeignText)
    assert found.is_guess
    [number] = [n for n, one in enumerate(found.readings) if one.text == WORDS[encoding]]
    assert f"as {found.readings[number].encoding} " in found.explain("it")
    image.write_bytes(data)
    right = ForeignText("", found.readings[number:], is_guess=True)
    command, target = right.conversion(image)
    assert paste(command).returncode == 0
    assert target.read_text(encoding="utf-8") == WORDS[encoding]


@pytest.mark.parametrize("encoding", ["GB18030", "BIG5", "CP932", "CP1251", "KOI8-R", "CP1252"])
def test_the_usual_encodings_are_guessed_first(encoding: str) -> None:
    assert guess(WORDS[encoding].encode(encoding))[0].text == WORDS[encoding]


def test_what_no_encoding_reads_has_no_command(image: Path) -> None:
    problem = refused(image, b"\xff\xfe\x00")

    assert problem.message.endswith("is UTF-16 by its byte mark, and damaged or cut short")
    assert problem.hint == "save it as UTF-8 text"
    assert "holds a character that is no text (U+0000" in refused(image, "a fox\0").message


@pytest.mark.parametrize(
    ("text", "before"),
    [
        ("cafÃ© au crÃ©puscule", "café au crépuscule"),
        ("dusk\u00e2\u20ac\u2122s light", "dusk\u2019s light"),
        ("»Æ»èµÄ·ç¾°", "黄昏的风景"),
        ("Ïåéçàæ íà çàêàòå", "Пейзаж на закате"),
    ],
)
def test_a_text_that_was_read_wrongly_before_is_warned_of(
    image: Path, text: str, before: str
) -> None:
    [warning] = warned(image, text)

    assert warning.endswith(f"reads like text of another encoding: {text!r} was perhaps {before!r}")


@pytest.mark.parametrize(
    ("caption", "told"),
    [
        ("<!DOCTYPE html>\n<html><title>404</title></html>", "is a page of HTML"),
        ('<?xml version="1.0"?><svg/>', "is a vector drawing (SVG)"),
        ('<?xml version="1.0"?><Error/>', "is an XML document"),
        (r"{\rtf1\ansi a fox}", "is a rich text document"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a Git LFS pointer"),
        (b"PK\x03\x04\x14\0\x06\0a fox", "is a ZIP archive or an office document"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3", "is a PDF document"),
        (b"\x89PNG\r\n\x1a\n\0\0", "is a PNG image"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "is a JPEG image"),
        ('{"file_name": "fox.png", "text": "a red fox"}\n{"file_name": "b.png"}', "is JSON"),
        ('{"caption": "a red fox",}', "is JSON"),
        ("[]", "is JSON"),
        (",,, , ,", "holds no word: ',,, , ,'"),
        ("\u2014", "holds no word"),
        ("fox.txt", "holds only a file's name: 'fox.txt'"),
        ("/data/captions/fox", "holds only a file's name"),
        ("https://example.com/fox.png", "holds only a file's name"),
    ],
)
def test_what_is_no_description_is_refused(image: Path, caption: bytes | str, told: str) -> None:
    problem = refused(image, caption)

    assert problem.message.startswith(f"caption file {image.with_suffix('.txt')} {told}")


@pytest.mark.parametrize(
    ("caption", "meant"),
    [
        ('{"caption": "a fox\'s den"}', "--caption 'a fox'\"'\"'s den'"),
        ('["a red fox"]', "--caption 'a red fox'"),
        ('{"file_name": "fox.png", "text": "a red fox"}', "--caption 'a red fox'"),
        ('{"value": "a red fox"}', "--caption 'a red fox'"),
        ('{"a": 1}', "write what the image shows, in words"),
    ],
)
def test_of_json_it_is_said_what_was_probably_meant(image: Path, caption: str, meant: str) -> None:
    assert refused(image, caption).hint == meant


@pytest.mark.parametrize(
    ("caption", "told"),
    [
        ("12345", "describes nothing: '12345'"),
        ("IMG_1234", "describes nothing"),
        ("None", "describes nothing"),
        ("[caption]", "describes nothing"),
        ("I'm sorry, but I can't describe this image.", "begins like another program's message"),
        ("404: Not Found", "begins like another program's message"),
        ("fox.png, a red fox", "begins with an image's name"),
        (
            "a fox\nNegative prompt: blurry\nSteps: 20, Sampler: Euler",
            "holds a generator's settings",
        ),
        ("a <b>red</b> fox", "holds HTML: '<b>'"),
        ("a fox &amp; a hen", "holds HTML: '&amp;'"),
        ("a fox --ar 16:9", "holds another program's option: '--ar'"),
        ("a photo of [trigger], a fox", "holds what other programs fill in: '[trigger]'"),
        ("<lora:fox:0.8> a fox", "holds what other programs fill in: '<lora:fox:0.8>'"),
        ("a ${ANIMAL} in snow", "holds what other programs fill in: '${ANIMAL}'"),
        ('"a red fox"', "is in quotation marks"),
        ("caf\ufffd at dusk", "holds U+FFFD, where letters were lost"),
    ],
)
def test_what_is_hardly_a_description_is_warned_of(image: Path, caption: str, told: str) -> None:
    warning = warned(image, caption)[0]

    assert warning.startswith(f"caption file {image.with_suffix('.txt')} {told}")


@pytest.mark.parametrize(
    "caption",
    [
        "fox",
        "a fox, 1girl, (masterpiece:1.2), best quality",
        "a 'quoted' fox and \"another\"",
        *("狐", "café", "œuvre d\u2019été", "ÉTÉ À L\u2019ÎLE", "Žluťoučký", "Ångström, naïve"),
        "[a fox] in {snow}",
        "1950s diner, f/2.8, 50mm",
        "the word sorry on a sign",
        "a chart < a table > a text",
        "rock & roll at $5 a head, 50% off",
        "a well--known fox -- asleep",
    ],
)
def test_ordinary_captions_pass_without_a_word(image: Path, caption: str) -> None:
    assert warned(image, caption) == []


@pytest.mark.parametrize(
    "name",
    [
        *("{0}.TXT", "{0}.Txt", "{0}.png.txt", "{0}.PNG.TXT", "{0}.txt.txt", "{0}.caption.txt"),
        *("{0}.CAPTION", "{0}.png.caption", "{0} .txt", "{0}_caption.txt", "{0}.text", "{0}.tags"),
    ],
)
def test_a_near_miss_is_named_and_copied_by_the_hint(image: Path, name: str) -> None:
    near = image.with_name(name.format(image.stem))
    near.write_text("a red fox")
    [problem] = examine_sample(image).problems

    assert problem.message.endswith(f"exists; is {near.name} meant?")
    done = paste(problem.hint or "")

    sample = examine_sample(image).sample
    assert sample is not None, done.stderr
    assert sample.caption == "a red fox"
    assert near.read_text() == "a red fox"


def test_the_likeliest_of_several_near_misses_comes_first(image: Path) -> None:
    for name in ("TXT", "png.txt", "tags"):
        image.with_suffix(f".{name}").write_text("a red fox")
    image.with_name("other.txt").write_text("a hen")
    accented = image.rename(image.with_name("caf\u00e9.png"))
    image.with_name("cafe\u0301.txt").write_text("a café")  # spelt otherwise

    [problem] = examine_sample(accented).problems
    assert problem.message.endswith("; is cafe\u0301.txt meant?")
    [problem] = examine_sample(accented.rename(image)).problems

    stem = image.stem
    assert problem.message.endswith(f"; is {stem}.TXT and {stem}.png.txt and {stem}.tags meant?")


def brand(four: bytes) -> bytes:
    return b"\0\0\0\x18ftyp" + four + b"\0\0\0\0" + b"mif1" + four + bytes(99)


@pytest.mark.parametrize(
    ("name", "data", "kind", "command"),
    [
        ("fox.heic", brand(b"heic"), "a HEIC photo", "heif-convert {old} {new}"),
        ("fox.jpg", brand(b"heix"), "a HEIC photo", "sips -s format png {old} --out {new}"),
        ("fox.HEIF", b"cut", "a HEIC photo", "heif-convert {old} {new}"),
        ("fox.cr3", brand(b"crx "), "a camera's raw photo", "darktable-cli {old} {new}"),
        ("fox.nef", b"what", "a camera's raw photo", "darktable-cli {old} {new}"),
        ("fox.raf", b"FUJIFILMCCD-RAW 0201", "a camera's raw photo", "darktable-cli {old} {new}"),
        ("fox.svg", b"<svg xmlns='x'/>", "a vector drawing (SVG)", "rsvg-convert {old} -o {new}"),
        ("fox.jxl", b"\xff\x0a" + bytes(9), "a JPEG XL image", "djxl {old} {new}"),
        ("fox.mp4", brand(b"isom"), "a video", "ffmpeg -n -i {old} -frames:v 1 {new}"),
        ("fox.psd", b"8BPS\0\x07" + bytes(20), "a Photoshop document", "save it as PNG in the"),
        ("fox.xcf", b"gimp xcf v011\0", "a GIMP document", "save it as PNG in the program"),
        ("fox.pdf", b"%PDF-1.4", "a PDF document", "save it as PNG in the program"),
        ("fox.png", b"<html>", "a page of HTML, perhaps an error message", "download the file"),
        ("fox.png", b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer", "git lfs"),
    ],
)
def test_a_picture_that_cannot_be_read_is_named_with_a_way_out(
    tmp_path: Path, name: str, data: bytes, kind: str, command: str
) -> None:
    image = tmp_path / name
    image.write_bytes(data)
    (tmp_path / "fox.png").touch()  # what the converter must not replace
    image.with_suffix(".txt").write_text("a red fox")

    [problem] = examine_sample(image).problems

    assert problem.message.startswith(f"image {image} cannot be read: it is {kind}")
    told = command.format(old=image, new=tmp_path / "fox-2.png")
    assert told in (problem.hint or "")


@pytest.mark.parametrize(("name", "tags"), [("fox.dng", {}), ("fox.tif", {254: 1})])
def test_the_preview_in_a_raw_photo_is_not_taken_for_it(
    tmp_path: Path, name: str, tags: dict[int, int]
) -> None:
    image = tmp_path / name
    Image.effect_noise((256, 256), 90).convert("RGB").save(image, format="TIFF", tiffinfo=tags)
    image.with_suffix(".txt").write_text("a red fox")

    [problem] = examine_sample(image).problems

    assert problem.message.endswith("only a small preview in it can be read")
    assert f"darktable-cli {image} {tmp_path}/fox.png" in (problem.hint or "")
