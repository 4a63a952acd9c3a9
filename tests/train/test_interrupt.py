"""However a real training comes to its end, nothing is left running and it makes the same LoRAs.

Two runs of one pair: one trains both phases at once and is left alone. The other trains them one
after the other and for fewer steps, is killed, stopped and moved, and goes on each time from where
it was: at the end for more steps than it was begun with, the second phase by a process that had
been started with the first.
"""

import random
import signal
from pathlib import Path

import psutil
import pytest
from PIL import Image
from real_training import Started, kill, wait_until
from safetensors.numpy import load_file

STEPS = 66  # so many that the second mostly reads the caches while the first still trains
ALL = ("--steps", str(STEPS))
SHORTER = ("--steps", "60")  # warmed up alike, and its last checkpoint is at its end
CHECKPOINT = 6
DIRECT = ("--launcher", "direct")  # spares the half minute that `simpletuner train` takes


def make_training(folder: Path, model: Path) -> Started:
    folder.mkdir()
    Image.radial_gradient("L").resize((64, 64)).convert("RGB").save(folder / "x.png")
    (folder / "x.txt").write_text("a circle\n")
    arguments = ["--image", "x.png", "--model", str(model)]
    return Started(folder, folder / "runs/x", "train", *arguments, "--resolution", "64")


def tensors(run: Path) -> dict[str, bytes]:
    """Those of both LoRAs; SimpleTuner writes its metadata in any order."""
    found = {}
    for phase in ("slow", "fast"):
        path = run / f"output/glance-{phase}/pytorch_lora_weights.safetensors"
        found |= {f"{phase}.{name}": one.tobytes() for name, one in load_file(path).items()}
    return found


@pytest.fixture(scope="module")
def at_once(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> Started:
    """Both phases at once; the first begins with empty caches, the second finds them filled."""
    training = make_training(tmp_path_factory.mktemp("train") / "at-once", tiny_flux)
    training.finish(*DIRECT, *ALL, "--gpu-ids", "0,1")
    return training


def test_the_second_of_two_at_once_begins_while_the_first_trains(at_once: Started) -> None:
    told = [(one["event"], one.get("phase"), one.get("label")) for one in at_once.told()]
    first_step = told.index(("StepDone", "slow", None))

    over = told.index(("PhaseFinished", "slow", None))
    assert first_step < told.index(("PhaseStarted", "fast", None)) < over


def test_a_killed_then_stopped_then_moved_run_goes_on_from_where_it_was(
    at_once: Started, tmp_path: Path, tiny_flux: Path
) -> None:
    training = make_training(tmp_path / "in-turn", tiny_flux)
    training.finish(*DIRECT, *SHORTER, "--phase", "fast")  # with empty caches

    process = training.start("--phase", "slow", *DIRECT, *SHORTER)
    moment = random.randrange(CHECKPOINT + 2, 3 * CHECKPOINT)
    wait_until(lambda: len(training.steps()) > moment, process)
    kill(process)
    assert training.slow()["state"] == "training"
    done = max(training.steps())

    # the first Ctrl-C, of the public command's longer tree: SimpleTuner saves at that very step,
    # wherever its next checkpoint was due
    process = training.start("--phase", "slow", *SHORTER)
    wait_until(lambda: training.steps(), process)
    assert min(training.steps()) > done - CHECKPOINT - 1, f"killed at {moment}, it lost too much"
    tree = psutil.Process(process.pid).children(recursive=True)
    assert any("train.py" in " ".join(child.cmdline()) for child in tree)
    assert kill(process, signal.SIGINT) == 130
    assert training.slow()["state"] == "stopped"
    done = max(training.steps())
    assert (training.run / f"output/glance-slow/checkpoint-{done}/glance.seal").exists()

    # somebody moves the run, to another depth even: it goes on from where it was all the same, and
    # so does the phase that is done, to as many steps as are asked for now
    training.run = training.run.rename(training.folder / "moved")
    process = training.start(*DIRECT, *ALL)
    wait_until(training.steps, process)
    room = training.run / "config/glance-fast"  # where the second one's process waits meanwhile
    below = psutil.Process(process.pid).children(recursive=True)
    waits = [one for one in below if Path(one.cwd()) == room]
    assert len(waits) == 2
    wait_until(lambda: training.run in [Path(one.cwd()) for one in waits], process)
    assert process.wait(timeout=300) == 0
    assert training.steps()[0] == done + 1
    assert max(training.steps()) == STEPS
    assert not any((training.run / "cache/vae").rglob("runs")), "latents of the old place"
    record = training.slow()
    assert (record["state"], len(record["attempts"])) == ("done", 3)
    assert [attempt["resumed"] for attempt in record["attempts"]][2] == done

    # undisturbed it is the same to the bit, whatever the caches held: the seed decides it
    assert tensors(training.run) == tensors(at_once.run)
    runs = (training.run, at_once.run)
    caches = [sorted(path.name for path in run.glob("cache/**/*.pt")) for run in runs]
    assert caches[0] == caches[1], "two at once leave what one after the other leaves"
