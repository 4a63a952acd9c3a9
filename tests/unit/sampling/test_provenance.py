"""What pictures say of their making: written, read back, and refused when it is not to be read."""

import json
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fakes.comfyui import make_job
from PIL import Image, PngImagePlugin

from glance import __version__
from glance.core.device import Device, Precision
from glance.core.errors import InputError, SetupError
from glance.core.phase import Phase
from glance.sampling.comfyui import build_workflow, lay_out_page
from glance.sampling.provenance import (
    ExtraUse,
    LoraUse,
    Record,
    ScheduleUse,
    format_parameters,
    read_record,
    write_image,
)
from glance.sampling.settings import SampleSettings
from glance.schedule.lists import PRESETS

NAMES = ["x.png", "x.jpg", "x.JPEG", "x.webp"]
REMEDY = "give an image as `glance infer` wrote it: PNG, JPEG or WebP"
UNICODE = '猫 🐈 "straße", a\nsecond line: yes\r\n\tNegative prompt: no \\ \x7f'
EXIF, COMMENT, DESCRIPTION = 0x8769, 0x9286, 0x010E


def make_settings(**changes: Any) -> SampleSettings:
    usual = {"prompt": "a cat", "seed": 7, "slow_guidance": 3.5, "fast_guidance": 1.0}
    return SampleSettings(**{**usual, "width": 1024, "height": 768, **changes})


def make_record(*, settings: SampleSettings | None = None, **changes: Any) -> Record:
    usual = {
        "versions": {"torch": "2.13.0", "diffusers": "0.42.1"},
        "family": "flux",
        "model": "black-forest-labs/FLUX.1-dev",
        "base_revision": "3de623fc3c33e44ffbe2bad470d0f45bccf2eb21",
        "run": "..",
        "device": Device.CUDA,
        "dtype": Precision.BF16,
        "schedule": ScheduleUse.of(PRESETS["guide"].schedule),
        "loras": (
            LoraUse(phase=Phase.SLOW, file="../slow/lora.safetensors", sha256="a" * 64, scale=1.0),
            LoraUse(phase=Phase.FAST, file="me/cat:lora.safetensors", sha256="b" * 64, scale=0.8),
        ),
        "settings": settings or make_settings(),
    }
    return Record(**{**usual, **changes})


def gradient() -> Image.Image:
    return Image.linear_gradient("L").resize((48, 32)).convert("RGB")


def with_chunk(text: str) -> Path:
    """A PNG as somebody else might write it."""
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("glance", text)
    gradient().save("foreign.png", pnginfo=chunks)
    return Path("foreign.png")


def document(**changes: Any) -> str:
    return json.dumps({**make_record().model_dump(mode="json"), **changes})


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_record(path)
    [problem] = caught.value.problems
    assert problem.hint in (REMEDY, "use the glance that wrote it")
    return problem.message


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prompt", ["a cat", "füchsin", UNICODE], ids=["ascii", "latin", "other"])
def test_what_is_written_is_read_back(name: str, prompt: str) -> None:
    record = make_record(settings=make_settings(prompt=prompt, negative_prompt=prompt[::-1]))

    write_image(gradient(), Path("new") / name, record)

    assert read_record(Path("new") / name) == record


def test_a_png_carries_comfyuis_workflow_for_its_api_and_for_its_page() -> None:
    graph = build_workflow(make_job("flux", prompt=UNICODE))

    for name in ("x.png", "x.webp"):
        write_image(gradient(), Path(name), make_record(), workflow=graph)

    with Image.open("x.png") as written:
        info = written.info
    assert json.loads(info["prompt"]) == graph.to_api()
    assert json.loads(info["workflow"]) == lay_out_page(graph)
    assert read_record(Path("x.png")) == read_record(Path("x.webp")) == make_record()


def test_every_field_is_read_back() -> None:
    settings = make_settings(
        reference=Path("../in.png"), true_cfg=2.5, slow_scale=0.1 + 0.2, loras=(Phase.FAST,)
    )
    record = make_record(
        settings=settings,
        reference_sha256="c" * 64,
        init_latents_sha256="d" * 64,
        transformer="../../flux.safetensors",
        quantize="int8",
        extra_loras=(ExtraUse(name="x.safetensors", file="x", sha256="e" * 64, strength=-0.1),),
        glance="0.0.9",
    )

    write_image(gradient(), Path("x.jpg"), record)

    assert read_record(Path("x.jpg")) == record
    assert Record.model_fields.keys() == record.model_fields_set | {"schema_version"}


@pytest.mark.parametrize("name", NAMES)
def test_no_pixel_changes_and_the_same_gives_the_same_bytes(name: str) -> None:
    noise = Image.effect_noise((64, 64), 90).convert("RGB")
    for folder in ("one", "two"):
        write_image(noise, Path(folder) / name, make_record())

    assert (Path("one") / name).read_bytes() == (Path("two") / name).read_bytes()
    with Image.open(Path("one") / name) as picture:
        if picture.format == "JPEG":  # colours keep their resolution
            assert {layer[1:3] for layer in picture.layer} == {(1, 1)}  # type: ignore[attr-defined]
        else:
            assert picture.tobytes() == noise.tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_without_a_record_there_is_no_metadata(name: str) -> None:
    image = gradient()
    image.info = {"comment": b"mine", "icc_profile": b"mine", "exif": b"mine", "xmp": b"mine"}

    write_image(image, Path(name), None)

    with Image.open(name) as picture:
        assert not set(picture.info) & {"comment", "icc_profile", "exif", "xmp", "glance"}
        assert not set(picture.info) & {"parameters", "prompt"}
        assert not picture.getexif()
    assert image.info["comment"] == b"mine"


def test_parameters_are_the_web_uis_infotext() -> None:
    settings = make_settings(prompt="a cat,\nin the rain", negative_prompt="dogs")

    assert format_parameters(make_record(settings=settings)) == (
        "a cat,\n"
        "in the rain\n"
        "Negative prompt: dogs\n"
        "Steps: 10, Sampler: Euler, Schedule type: guide, CFG scale: 3.5, Seed: 7, "
        "Size: 1024x768, Model: FLUX.1-dev, "
        'Lora hashes: "lora-slow: aaaaaaaaaa, lora-fast: bbbbbbbbbb", '
        f"Version: glance {__version__}"
    )


def test_values_with_commas_and_quotes_are_quoted() -> None:
    lora = LoraUse(phase=Phase.SLOW, file='my, "old": one.v2.safetensors', sha256="a" * 64, scale=1)
    settings = make_settings(slow_guidance=4)
    record = make_record(settings=settings, model='../a, "b"', loras=(lora,))

    assert format_parameters(record) == (
        "a cat\n"
        "Steps: 10, Sampler: Euler, Schedule type: guide, CFG scale: 4, Seed: 7, "
        r'Size: 1024x768, Model: "a, \"b\"", Lora hashes: "-one.v2-slow: aaaaaaaaaa", '
        f"Version: glance {__version__}"
    )

    assert "Lora hashes" not in format_parameters(make_record(loras=()))


@pytest.mark.parametrize("name", NAMES)
def test_a_png_has_them_in_a_text_chunk_the_others_in_the_exif_comment(name: str) -> None:
    record = make_record(settings=make_settings(prompt=UNICODE))

    write_image(gradient(), Path(name), record)

    with Image.open(name) as picture:
        exif, info = picture.getexif(), picture.info
    if name == "x.png":
        assert info["parameters"] == format_parameters(record)
        assert set(info) == {"parameters", "glance"}
    else:
        assert exif.endian == ">"
        expected = format_parameters(record).encode("utf-16-be")
        assert exif.get_ifd(EXIF)[COMMENT] == b"UNICODE\0" + expected


def test_a_prompt_too_long_for_both_leaves_the_record_in_jpeg_or_is_refused() -> None:
    record, longer = (
        make_record(settings=make_settings(prompt="x" * length)) for length in (40_000, 65_000)
    )
    with pytest.raises(InputError, match="JPEG has room for 65,533"):
        write_image(gradient(), Path("x.jpg"), longer)
    assert list(Path().iterdir()) == []

    write_image(gradient(), Path("x.jpg"), record)

    assert read_record(Path("x.jpg")) == record
    with Image.open("x.jpg") as picture:
        assert not picture.getexif().get_ifd(EXIF)
    longest = make_record(
        settings=make_settings(prompt="🐈" * 65_536, negative_prompt="🐈" * 65_536)
    )
    for path in (Path("x.png"), Path("x.webp")):
        write_image(gradient(), path, longest)
        assert (read_record(path) == longest) is True


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_that_is_no_text_does_not_cost_the_picture(name: str) -> None:
    record = make_record(settings=make_settings(prompt="caf\udce9"))

    write_image(gradient(), Path(name), record)

    assert format_parameters(record).startswith("caf?\n")
    assert "surrogates not allowed" in refusal(Path(name))


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Let no file become longer than `size` bytes: what is left of a disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_leaves_the_old_picture_alone(name: str) -> None:
    Path(name).write_bytes(b"old")

    with full_disk(100), pytest.raises(SetupError, match=f"^cannot write {re.escape(name)}: "):
        write_image(gradient(), Path(name), make_record())

    assert [(path.name, path.read_bytes()) for path in Path().iterdir()] == [(name, b"old")]


def test_what_is_no_picture_is_refused() -> None:
    Path("folder").mkdir()
    Path("x.png").write_text("a cat")

    assert refusal(Path("no.png")) == "image no.png does not exist"
    assert refusal(Path("folder")) == "image folder is not a file"
    assert refusal(Path("n" * 300)).endswith("cannot be read: File name too long")
    assert refusal(Path("x.png")) == "image x.png cannot be read: it is no image, or damaged"


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.webp", "x.gif", "x.tiff"])
def test_a_foreign_picture_carries_no_record(name: str) -> None:
    exif = Image.Exif()
    exif[DESCRIPTION] = "a cat"
    gradient().save(name, exif=exif)

    assert refusal(Path(name)) == f"{name} carries no record of its making"


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_cut_short_is_read_or_refused(name: str) -> None:
    record = make_record()
    write_image(gradient(), Path(name), record)
    whole = Path(name).read_bytes()

    outcomes = set()
    for length in range(0, len(whole), 7):
        Path(name).write_bytes(whole[:length])
        try:
            outcomes.add(read_record(Path(name)) == record)
        except InputError:
            outcomes.add(False)

    assert False in outcomes


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ("[" * 100_000, "maximum recursion depth exceeded"),
        ("[]", "all of it: it must be an object"),
        (document(seed=1), "seed: 1: nothing of that name is known here"),
        (document(device="tpu"), "device: \"tpu\": it must be 'cuda', 'mps' or 'cpu'"),
        (document(schema_version="2"), 'schema_version: "2": it must be 1'),
        (document(schema_version=0), "schema_version: 0: it must be 1"),
        (document(quantize="\x1b[31m\ud83d"), "surrogates not allowed"),
        (document(**{"a\x1b[31m": 1}), "a?[31m: 1: nothing of that name is known here"),
        (
            document(
                schedule={
                    "name": "x",
                    "slow": {"timesteps": [1], "sigmas": [0.001]},
                    "fast": {"timesteps": [2], "sigmas": [0.002]},
                }
            ),
            "fast[0]: 2 is not below slow[0] = 1",
        ),
        (document(reference_sha256="c" * 64), "settings.reference and reference_sha256 go tog"),
        ('{"schema_version": ' + "1" * 5000 + "}", "Exceeds the limit (4300 digits)"),
        (document().replace('"scale": 0.8', '"scale": NaN'), "loras[1].scale: "),
        ('{"schema_version": 2' + " " * 2**21 + "}", "too long"),
    ],
    ids=lambda value: value[:20],
)
def test_a_damaged_record_is_refused(text: str, why: str) -> None:
    told = refusal(with_chunk(text))

    assert told.startswith("foreign.png: its glance record is damaged (")
    assert why in told


def test_a_record_of_a_newer_glance_or_one_that_unfolds_into_a_huge_one_is_refused() -> None:
    assert refusal(with_chunk('{"schema_version": 2}')) == (
        "foreign.png: its record is of a newer glance, this one reads schema version 1"
    )
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("glance", " " * 2**24, zip=True)
    gradient().save("bomb.png", pnginfo=chunks)

    assert Path("bomb.png").stat().st_size < 2**15
    assert refusal(Path("bomb.png")).startswith("image bomb.png cannot be read")


def test_key_is_indifferent_to_places_and_names() -> None:
    folder = {"base_revision": "f" * 64, "reference_sha256": "c" * 64}
    here = make_record(
        **folder,
        model="../model",
        transformer="../flux.safetensors",
        settings=make_settings(reference=Path("a/in.png")),
    )
    there = make_record(
        **folder,
        model="../../models/flux",
        transformer="there/flux.safetensors",
        settings=make_settings(reference=Path("b.png")),
        run=None,
        loras=tuple(one.model_copy(update={"file": "b.safetensors"}) for one in here.loras),
        schedule=here.schedule.model_copy(update={"name": "custom"}),
    )

    assert here != there
    assert here.key() == there.key()


@pytest.mark.parametrize(
    "changes",
    [
        {"settings": make_settings(prompt="a dog")},
        {"settings": make_settings(slow_scale=0.9)},
        {"settings": make_settings(reference=Path("x")), "reference_sha256": "c" * 64},
        {"schedule": ScheduleUse.of(PRESETS["paper"].schedule)},
        {"loras": make_record().loras[:1]},
        {"loras": make_record().loras[::-1]},
        {"loras": (make_record().loras[0].model_copy(update={"sha256": "c" * 64}),)},
        {"loras": (make_record().loras[0].model_copy(update={"scale": 0.5}),)},
        {"model": "black-forest-labs/FLUX.1-schnell"},
        {"base_revision": "0" * 40},
        {"base_revision": "f" * 64},
        {"transformer": "flux.safetensors"},
        {"device": Device.CPU},
        {"dtype": Precision.FP16},
        {"quantize": "int8"},
        {"versions": {"torch": "2.14.0"}},
        {"glance": "0.0.9"},
    ],
    ids=str,
)
def test_key_tells_apart_what_differs(changes: dict[str, Any]) -> None:
    assert make_record(**changes).key() != make_record().key()
