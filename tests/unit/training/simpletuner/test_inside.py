"""What glance changes in the trainer's process, on what stands for SimpleTuner's modules."""

import importlib.util
import queue
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from huggingface_hub.errors import IncompleteSnapshotError

from glance.training.simpletuner import process

INSIDE = Path(process.__file__).parent / "inside"


@pytest.fixture
def seeds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What torch is given: of it there is no more than that; the numbers are numpy's."""
    given: list[int] = []
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(manual_seed=given.append))
    return given


@pytest.fixture
def seed_module(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(INSIDE)
    return importlib.import_module("glance_seed")


def draw(*_: object) -> tuple[float, float]:
    return random.random(), float(np.random.random())


def make_trainer() -> Any:
    tracker = SimpleNamespace(step=0)
    tracker.get_global_step = lambda: tracker.step
    trainer = type("Trainer", (), {"init_trainable_peft_adapter": draw})
    return SimpleNamespace(Trainer=trainer, random_dataloader_iterator=draw, StateTracker=tracker)


def take_steps(seed_module: Any, *steps: int, disturbed: int = 0, seed: int = 1) -> list[Any]:
    """What a trainer draws in each of these batches, by the step that was done before it."""
    trainer = make_trainer()
    seed_module.hold_training(trainer, seed)
    for _ in range(disturbed):
        draw()
    found = []
    for step in steps:
        trainer.StateTracker.step = step
        found.append(trainer.random_dataloader_iterator(step, {}))
    return found


@pytest.mark.usefixtures("seeds")
def test_a_step_draws_the_same_whatever_was_drawn_before(seed_module: Any) -> None:
    whole = take_steps(seed_module, 0, 0, 1, 1, 2, 3)

    assert len(set(whole)) == 6  # the batches of one step are not the same
    assert take_steps(seed_module, 1, 1, 2, 3, disturbed=7) == whole[2:]
    assert take_steps(seed_module, 0, seed=2) != whole[:1]


def test_weights_and_pictures_begin_with_own_numbers(seed_module: Any, seeds: list[int]) -> None:
    vae = SimpleNamespace(VAECache=type("VAECache", (), {"encode_images": draw}))
    trainer = make_trainer()
    seed_module.hold_encoding(vae, 1)
    seed_module.hold_training(trainer, 1)

    encoded = [vae.VAECache().encode_images([], []) for _ in range(2)]
    weights = [trainer.Trainer().init_trainable_peft_adapter() for _ in range(2)]

    assert encoded[0] == encoded[1]
    assert weights[0] == weights[1]
    assert weights[0] != encoded[0]
    assert len(set(seeds)) == 2


def test_another_simpletuner_trains_on_and_that_is_said(
    seed_module: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    seed_module.hold_encoding(SimpleNamespace(), 1)
    seed_module.hold_training(SimpleNamespace(Trainer=object), 1)

    told = capsys.readouterr().err.splitlines()

    assert told == [
        f"glance: the seed does not decide everything: SimpleTuner has no {name}"
        for name in (
            "VAECache.encode_images",
            "Trainer.init_trainable_peft_adapter",
            "random_dataloader_iterator",
        )
    ]


@pytest.fixture
def customize(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What runs first in each Python process of the trainer."""
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    spec = importlib.util.spec_from_file_location("of_the_trainer", INSIDE / "sitecustomize.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("of_processes", [False, True])
def test_what_a_thread_has_handed_over_is_there_when_it_ends(
    customize: Any, of_processes: bool
) -> None:
    asked = SimpleNamespace(enable_multiprocessing=of_processes)
    theirs = SimpleNamespace(get_args=lambda: asked)
    base = SimpleNamespace(Queue=lambda: "multiprocessing's", StateTracker=theirs)

    customize._keep_metadata(base)

    assert isinstance(base.Queue(), str if of_processes else queue.Queue)


def test_the_base_model_is_read_from_where_it_lies(
    customize: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLANCE_MODEL", "../../hub/models--acme--tiny/snapshots/1")
    asked = ["--model_family=flux", "--pretrained_model_name_or_path=acme/tiny"]
    json_file = SimpleNamespace(load_json_config=lambda: asked)

    customize._place_model(json_file)

    place = "--pretrained_model_name_or_path=../../hub/models--acme--tiny/snapshots/1"
    assert json_file.load_json_config() == ["--model_family=flux", place]


def test_of_a_snapshot_what_is_there_is_taken(customize: Any) -> None:
    def fetch(name: str, *, allow_patterns: list[str]) -> str:
        if allow_patterns != ["model_index.json"]:
            raise IncompleteSnapshotError("model.fp16.safetensors is missing", snapshot_path="x")
        return f"the folder of {name}"

    common = SimpleNamespace(snapshot_download=fetch)
    customize._take_what_is_there(common)

    found = common.snapshot_download("acme/tiny", allow_patterns=["text_encoder/*"])
    assert found == "the folder of acme/tiny"


def test_garbage_is_collected_once_the_trainer_is_imported(tmp_path: Path) -> None:
    package = tmp_path / "simpletuner/helpers/training"
    package.mkdir(parents=True)
    telling = "import gc; print(gc.isenabled())"
    (tmp_path / "simpletuner/__init__.py").write_text(telling)
    (package / "trainer.py").write_text(telling)

    told = subprocess.run(
        [
            sys.executable,
            "-c",
            f"{telling}; import simpletuner.helpers.training.trainer; {telling}",
        ],
        env={"PYTHONPATH": f"{INSIDE}:{tmp_path}"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert told.stdout.split() == ["True", "False", "False", "True"]


def test_of_a_step_torchs_compiler_is_told_where_it_is_there(
    customize: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    trainer = SimpleNamespace(mark_cudagraph_step_begin=told.append)
    customize._start_sooner(trainer)

    monkeypatch.delitem(sys.modules, "torch._inductor.cudagraph_trees", raising=False)
    trainer.mark_cudagraph_step_begin("nothing was compiled")
    monkeypatch.setitem(sys.modules, "torch._inductor.cudagraph_trees", SimpleNamespace())
    trainer.mark_cudagraph_step_begin("something was")

    assert told == ["something was"]
