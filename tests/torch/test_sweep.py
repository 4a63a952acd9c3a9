"""What a sweep paints with its pairs: real models and LoRAs; only the training is played."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from fakes.trainer import FakeSimpleTuner
from PIL import Image

from glance.compare import Cell, Variant
from glance.compare.trial import NEUTRAL_PROMPT
from glance.events import Event, Noted
from glance.run import LORA_FILE
from glance.simpletuner.runner import Job
from glance.sweep import SweepRequest, SweepResult, plan_sweep, run_sweep
from glance.sweep.sheet import Strip, save_strips
from glance.training.request import TrainRequest


class Copying:
    """A trainer that leaves LoRAs which were there before."""

    def __init__(self, loras: dict[str, Path]) -> None:
        self._loras = loras

    def run(self, job: Job, on_line: Callable[[str], None]) -> int:
        phase = job.command[-1].removeprefix("glance-")
        config = json.loads((job.folder / f"config/glance-{phase}/config.json").read_bytes())
        output = job.folder / config["output_dir"]
        output.mkdir(parents=True, exist_ok=True)
        shutil.copy(self._loras[phase], output / LORA_FILE)
        return 0

    def end(self) -> None: ...

    def processes(self, job: Job) -> list[psutil.Process]:
        return []


@dataclass(frozen=True)
class Swept:
    """A sweep that was run once, for tests that only look at it or run it again."""

    work: Path
    result: SweepResult
    again: Callable[[Callable[[Event], None]], SweepResult]


@pytest.fixture(scope="module")
def finished(
    tiny_flux: Path, loras: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Swept]:
    """Two points of unlike schedules, painted with two prompts."""
    work = tmp_path_factory.mktemp("sweep")
    Image.radial_gradient("L").resize((64, 64)).convert("RGB").save(work / "cat.png")
    simpletuner = FakeSimpleTuner(work / "trainer")
    shared = TrainRequest(
        image=work / "cat.png", caption="a cat", model=str(tiny_flux), resolution=64, device="cpu"
    )
    request = SweepRequest(
        shared=shared, ranks="4", steps="5", schedules="seed,paper", output=work / "cats"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(simpletuner.folder), prepend=os.pathsep)

        def run(on_event: Callable[[Event], None]) -> SweepResult:
            return run_sweep(plan_sweep(request), on_event, runner=Copying(loras))

        yield Swept(work / "cats", run(lambda _: None), run)


def test_every_point_has_figures_beside_the_bases(finished: Swept) -> None:
    for point in finished.result.points:
        assert point.pair is not None
        assert point.base is not None
        assert point.pair != point.base
        assert -1 <= point.pair.ssim < 1
        assert 0 < point.pair.psnr < 100


def test_each_schedules_base_runs_along_its_own_sigmas(finished: Swept) -> None:
    first, second = (point.base for point in finished.result.points)

    assert first != second


def test_sweep_json_holds_the_figures_too(finished: Swept) -> None:
    document = json.loads((finished.work / "sweep.json").read_text())

    assert document["sheet"] == "sheet.png"
    assert document["prompts"] == ["a cat", NEUTRAL_PROMPT]
    assert document["points"][1]["pair"] == finished.result.points[1].pair.to_json()


def test_the_sheet_has_a_row_a_point_and_two_of_the_base(finished: Swept) -> None:
    sheet = Image.open(finished.result.sheet)

    columns, rows = 1 + 2, 2 + 2
    assert (sheet.width - 8) / (160 + 8) == columns
    assert (sheet.height - 3 * 15 - 8) / (28 + 160 + 36) == rows


def test_the_same_again_paints_nothing(finished: Swept) -> None:
    events: list[Event] = []

    again = finished.again(events.append)

    assert again.to_json() == finished.result.to_json()
    told = [event.message for event in events if isinstance(event, Noted)]
    assert not [message for message in told if message.startswith(("loading", "picture"))]


def test_a_strip_shows_its_pictures_from_left_to_right(pair: Path, tmp_path: Path) -> None:
    colours = ("red", "lime")
    cells = tuple(
        Cell(
            variant=Variant.BOTH,
            image=Image.new("RGB", (64, 64), colour),
            steps=10,
            seconds=1.0,
            was_cached=False,
            figures={},
        )
        for colour in colours
    )

    save_strips(
        [Strip("rank-4", cells)], columns=("a", "b"), sample=pair, path=tmp_path / "sheet.png"
    )

    sheet = Image.open(tmp_path / "sheet.png")
    middle = 3 * 15 + 8 + 28 + 80
    assert [sheet.getpixel((8 + step * 168 + 80, middle)) for step in (1, 2)] == [
        (255, 0, 0),
        (0, 255, 0),
    ]
