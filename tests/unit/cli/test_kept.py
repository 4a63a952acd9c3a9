"""What is there already and not glance's own stays as it is; a LoRA is the one that was trained."""

import json
import shutil
from pathlib import Path

import pytest
from fakes.commands import SMALL, TRAIN, Glance, files
from fakes.pairs import write_run
from PIL import Image

INFER = ("infer", "-p", "x", "--device", "cpu", "--size", "64x64", "--dry-run")


@pytest.fixture
def mine() -> Path:
    path = Path("mine.png")
    Image.new("RGB", (8, 8), "red").save(path)
    return path


def test_an_image_without_a_record_is_written_over_only_if_it_is_said(
    invoke: Glance, mine: Path
) -> None:
    write_run(Path("runs/cat"))

    refused = invoke(*INFER, "-o", mine)

    assert refused.code == 4
    assert "--output mine.png: it is there already, without glance's record" in refused.err
    assert invoke(*INFER, "-o", mine, "--restart").code == 0
    assert invoke(*INFER, "-o", mine, "--count", 2).code == 0, "these get names of their own"


def test_what_is_no_file_is_no_place_for_an_image(invoke: Glance) -> None:
    write_run(Path("runs/cat"))
    Path("link.png").symlink_to("nowhere.png")

    done = invoke(*INFER, "-o", "link.png", "--restart")

    assert (done.code, "it is no regular file" in done.err) == (4, True)


def test_a_drawing_takes_the_place_of_a_drawing_alone(invoke: Glance, mine: Path) -> None:
    before = mine.read_bytes()

    refused = invoke("schedule", "--plot", mine)
    drawn = [invoke("schedule", "--plot", name).code for name in ("own.svg", "own.svg", "own.png")]
    again = invoke("schedule", "--plot", "own.png")

    assert (refused.code, "glance did not draw it" in refused.err) == (4, True)
    assert mine.read_bytes() == before
    assert (drawn, again.code) == ([0, 0, 0], 0)


@pytest.mark.usefixtures("simpletuner")
def test_events_are_appended_to_events_alone(invoke: Glance, pair: Path) -> None:
    caption = pair.with_suffix(".txt")

    refused = invoke(*TRAIN, "--events", caption)
    told = [invoke(*TRAIN, "--events", "events.jsonl").code for _ in range(2)]

    assert refused.code == 4
    assert f"--events {caption}: it holds something else than events" in refused.err
    assert caption.read_text() == "a grey circle\n"
    assert told == [0, 0]
    assert all(json.loads(line)["event"] for line in Path("events.jsonl").read_text().splitlines())


@pytest.mark.usefixtures("fully_trained")
def test_a_lora_that_was_exchanged_or_is_gone_is_told(invoke: Glance) -> None:
    slow, fast = (
        Path(f"runs/cat/output/glance-{phase}/pytorch_lora_weights.safetensors")
        for phase in ("slow", "fast")
    )
    shutil.copy(slow, fast)

    exchanged = invoke(*INFER, "--run", "runs/cat")
    by_hand = invoke(*INFER, "--slow-lora", slow, "--fast-lora", slow, "--model", "acme/tiny")
    fast.unlink()
    gone = invoke(*INFER, "--run", "runs/cat")

    assert exchanged.code == by_hand.code == gone.code == 4
    assert f"{fast} is not the file that the run recorded" in exchanged.err
    assert "are the same LoRA, the slow one of its pair" in by_hand.err
    assert f"LoRA not found: {fast}" in gone.err
    assert "hint: glance train --resume runs/cat\n" in gone.err


def test_a_token_is_kept_in_no_file_of_settings(invoke: Glance, pair: Path) -> None:
    token = "hf_" + "a" * 34

    done = invoke(
        *TRAIN, "--set", f"tracker_project_name={token}", "--save-config", "s.yaml", "--dry-run"
    )

    assert (done.code, Path("s.yaml").exists()) == (4, False)


def test_all_runs_that_are_no_runs_are_told_at_once(invoke: Glance, tmp_path: Path) -> None:
    write_run(Path("runs/cat"))
    before = files(tmp_path)

    for command in (("rm", "-y"), ("clean",), ("compare",)):
        done = invoke("runs", *command, "runs/cat", "one", "two")
        assert (done.code, done.err.count("error: ")) == (4, 2), command
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    "command",
    [
        ("runs", "list"),
        ("batch", "infer", "-p", "x", "--runs"),
        ("web", "--no-open", "--read"),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_a_name_that_no_file_system_takes_is_refused(
    invoke: Glance, command: tuple[str, ...]
) -> None:
    done = invoke(*command, "x" * 300)

    assert done.code in (3, 4)
    assert "error: " in done.err


def test_a_line_of_a_batch_is_one_line(invoke: Glance, pair: Path) -> None:
    Path("pics").mkdir()
    for path in (pair, pair.with_suffix(".txt")):
        shutil.copy(path, Path("pics", f"n\nl{path.suffix}"))

    done = invoke("batch", "plan", "pics", *SMALL)

    assert (done.code, done.out) == (4, "")
    assert "a control character in a name or a value would break its line in two" in done.err


def test_what_the_base_makes_beside_is_planned_too(invoke: Glance) -> None:
    write_run(Path("runs/cat"))

    words = invoke(*INFER, "--with-base", "-o", "z.png").out
    document = invoke(*INFER, "--with-base", "-o", "z.png", "--json").document

    assert "with the base" in words
    assert [Path(one).name for one in document["base_images"]] == ["z-base.png"]
