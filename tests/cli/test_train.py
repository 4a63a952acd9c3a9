"""`glance train` as users meet it: its two streams, its exit codes, and signals.

`glance` is a process. `invoke`, for where that is not the point, is the same in this one.
"""

import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fakes.trainer import FakeSimpleTuner, RunningGlance, wait_for
from PIL import Image
from safetensors.numpy import save_file
from typer.testing import CliRunner

from glance.cli import app
from glance.families import find_family

pytest_plugins = ["fakes.plugin"]

ROOT = Path(__file__).parents[2]
SMALL = ["--model", "acme/tiny", "--steps", "5", "--rank", "4", "--resolution", "64"]
TRAIN = ["train", "--image", "cat.png", "--device", "cpu", *SMALL]
MANIFEST = Path("runs/cat/glance.json")

type Glance = Callable[..., Any]
type StartGlance = Callable[..., RunningGlance]

pytestmark = pytest.mark.usefixtures("pair")
needs_half = pytest.mark.usefixtures("half_trained")
needs_whole = pytest.mark.usefixtures("fully_trained")


@pytest.fixture
def invoke() -> Glance:
    def invoke(*arguments: str) -> SimpleNamespace:
        done = CliRunner().invoke(app, arguments)
        assert isinstance(done.exception, SystemExit | None), done.exception
        return SimpleNamespace(code=done.exit_code, out=done.stdout, err=done.stderr)

    return invoke


def states(manifest: Path = MANIFEST) -> list[str]:
    phases = json.loads(manifest.read_text())["phases"]
    return [phases["slow"]["state"], phases["fast"]["state"]]


def files(folder: Path) -> dict[Path, tuple[bytes, int]]:
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


# The good way


def test_it_prints_the_run_and_talks_on_stderr(
    glance: Glance, simpletuner: FakeSimpleTuner
) -> None:
    done = glance(*TRAIN)

    assert (done.code, done.out) == (0, "runs/cat\n")
    assert (
        re.sub(
            r"  [\d.]+ s a step|, \d+ s in all|(?<=in )\d+|[\d.]+ s a step, "
            r"|, sha256 [0-9a-f]{12}",
            "",
            done.err,
        )
        == """\
slow: training 5 steps
slow: Starting SimpleTuner
slow: Loading the model
slow: step 1 of 5  loss 1.0000  4 s left
slow: step 2 of 5  loss 0.5000  3 s left
slow: step 3 of 5  loss 0.3333  2 s left
slow: step 4 of 5  loss 0.2500  1 s left
slow: step 5 of 5  loss 0.2000  0 s left
slow: done in  s, output/glance-slow/pytorch_lora_weights.safetensors
fast: training 5 steps
fast: Starting SimpleTuner
fast: Loading the model
fast: step 1 of 5  loss 1.0000  4 s left
fast: step 2 of 5  loss 0.5000  3 s left
fast: step 3 of 5  loss 0.3333  2 s left
fast: step 4 of 5  loss 0.2500  1 s left
fast: step 5 of 5  loss 0.2000  0 s left
fast: done in  s, output/glance-fast/pytorch_lora_weights.safetensors
slow: 5 steps, loss 0.7500 -> 0.2250
slow: output/glance-slow/pytorch_lora_weights.safetensors, 0.0 MB
fast: 5 steps, loss 0.7500 -> 0.2250
fast: output/glance-fast/pytorch_lora_weights.safetensors, 0.0 MB
next: glance infer --run runs/cat --prompt "..."
"""
    )


def test_json_is_one_document_and_events_go_to_a_file(
    glance: Glance, simpletuner: FakeSimpleTuner
) -> None:
    done = glance(*TRAIN, "--phase", "slow", "--json", "--quiet", "--events", "events.jsonl")

    assert (done.code, done.err) == (0, "")
    assert done.document["run"] == "runs/cat"
    fast = done.document["phases"]["fast"]
    assert (fast["state"], fast["lora"], fast["measured"]["steps"]) == ("pending", None, 0)
    assert done.document["phases"]["slow"]["measured"]["steps"] == 5
    assert done.document["phases"]["slow"]["state"] == "done"
    lora = done.document["phases"]["slow"]["lora"]
    assert lora["path"] == "output/glance-slow/pytorch_lora_weights.safetensors"
    events = [json.loads(line) for line in Path("events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events if event["event"] != "TrainerSaid"] == [
        "PhaseStarted",
        "StageEntered",
        "StageEntered",
        *["StepDone", "CheckpointSaved"] * 5,
        "PhaseFinished",
    ]


def test_events_can_go_to_stdout(invoke: Glance, simpletuner: FakeSimpleTuner) -> None:
    done = invoke(*TRAIN, "--phase", "slow", "--quiet", "--events", "-")

    *events, result = done.out.splitlines()
    assert (done.code, result) == (0, "runs/cat")
    assert json.loads(events[0])["event"] == "PhaseStarted"


def test_a_reader_that_leaves_ends_it_quietly(
    start_glance: StartGlance, simpletuner: FakeSimpleTuner
) -> None:
    simpletuner.behave(slow="raving")
    running = start_glance(*TRAIN, "--quiet", "--events", "-")

    running.stop_reading()

    assert running.finish() == (1, "")
    assert states() == ["stopped", "pending"]
    assert simpletuner.processes() == []


@needs_whole
def test_the_same_command_again_starts_nothing(
    glance: Glance, simpletuner: FakeSimpleTuner
) -> None:
    done = glance(*TRAIN, "--json")

    assert (done.code, simpletuner.starts) == (0, [])
    assert [phase["state"] for phase in done.document["phases"].values()] == ["done", "done"]
    assert done.err.startswith("slow: already done\nfast: already done\n")


@needs_half
def test_one_phase_can_follow_the_other(invoke: Glance, simpletuner: FakeSimpleTuner) -> None:
    assert invoke(*TRAIN, "--phase", "fast").code == 0

    assert simpletuner.phases == ["fast"]
    assert states() == ["done", "done"]


def test_warnings_are_said(invoke: Glance, simpletuner: FakeSimpleTuner) -> None:
    done = invoke(*TRAIN, "--set", "lora_dropout=0.1", "--phase", "slow")

    assert done.err.startswith("warning: --set lora_dropout=0.1: replaces glance's 0.0\n")


@pytest.mark.parametrize("name", ['-it\'s\n"wéird" 猫; $HOME', "--help"])
def test_names_may_hold_anything(
    glance: Glance, simpletuner: FakeSimpleTuner, pair: Path, name: str
) -> None:
    pair.rename(f"{name}.png")
    pair.with_suffix(".txt").rename(f"{name}.txt")
    arguments = ["--image", f"{name}.png", "--run", f"{name} run"]

    done = glance("train", *SMALL, *arguments, "--device", "cpu", "--phase", "slow", "--quiet")

    assert (done.code, done.out, done.err) == (0, f"{name} run\n", "")
    assert states(Path(f"{name} run/glance.json")) == ["done", "pending"]


# Dry run


def test_a_dry_run_prints_the_plan_and_touches_nothing(
    glance: Glance, simpletuner: FakeSimpleTuner, tmp_path: Path
) -> None:
    before = files(tmp_path)

    done = glance(*TRAIN, "--dry-run", "--json", "--events", "events.jsonl")

    assert done.code == 0
    assert re.fullmatch(
        r"estimate: [\d.]+ GB of system memory, [\d.]+ GB on the disk for the run\n", done.err
    )
    document = done.document
    assert set(document) == {"run", "schedule", "files", "commands"}
    assert document["run"] == "runs/cat"
    assert document["schedule"]["slow"]["timesteps"][:2] == [1000.0, 979.1915]
    assert document["schedule"]["fast"]["sigmas"][-1] == 0.02
    assert document["files"]["config/glance-slow/config.json"]["max_train_steps"] == 5
    assert document["commands"] == [
        ["simpletuner", "train", "--env", "glance-slow"],
        ["simpletuner", "train", "--env", "glance-fast"],
    ]
    assert files(tmp_path) == before


@needs_whole
def test_a_dry_run_shows_a_direct_start(invoke: Glance, simpletuner: FakeSimpleTuner) -> None:
    done = invoke(*TRAIN, "--launcher", "direct", "--dry-run", "--json")

    command = ["python", "-P", "-m", "simpletuner.train"]
    assert json.loads(done.out)["commands"] == [command, command]


def test_a_dry_run_leaves_an_existing_run_alone(
    invoke: Glance, simpletuner: FakeSimpleTuner, tmp_path: Path
) -> None:
    before = files(tmp_path)

    done = invoke(*TRAIN, "--steps", "3", "--restart", "--dry-run")

    assert json.loads(done.out)["files"]["config/glance-fast/config.json"]["max_train_steps"] == 3
    assert done.err.splitlines()[:-1] == [
        "warning: 3 steps cannot visit the slow phase's 5 timesteps",
        "warning: 3 steps cannot visit the fast phase's 5 timesteps",
    ]
    assert files(tmp_path) == before


def test_the_examples_of_the_help_work(invoke: Glance, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = re.findall(r"^\s*glance (train .+)$", invoke("train", "--help").out, re.MULTILINE)
    monkeypatch.chdir(ROOT)

    codes = [invoke(*example.split(), "--dry-run").code for example in examples]

    assert codes == [0, 0]


# Refusals


@needs_half
def test_another_run_is_refused_with_what_differs(
    invoke: Glance, simpletuner: FakeSimpleTuner
) -> None:
    done = invoke(*TRAIN, "--steps", "6", "--rank", "8")

    assert (done.code, done.out) == (4, "")
    assert (
        done.err
        == """\
error: run runs/cat was trained with other settings: steps: 5 there, 6 asked
error: run runs/cat was trained with other settings: rank: 4 there, 8 asked
  hint: give another --run, or discard what this one has trained: --restart
"""
    )
    assert simpletuner.starts == []


@needs_half
def test_restart_begins_anew(invoke: Glance, simpletuner: FakeSimpleTuner) -> None:
    assert invoke(*TRAIN, "--phase", "slow", "--rank", "8", "--restart").code == 0

    (start,) = simpletuner.starts
    assert (start["config"]["lora_rank"], start["resumed"]) == (8, 0)


def test_a_folder_that_is_no_run_is_refused(invoke: Glance, simpletuner: FakeSimpleTuner) -> None:
    Path("thesis").mkdir()
    Path("thesis/chapter.txt").write_text("years of work")
    before = files(Path("thesis"))

    done = invoke(*TRAIN, "--run", "thesis", "--restart")

    assert (done.code, done.out) == (4, "")
    assert (
        done.err
        == """\
error: thesis is no run folder: it holds chapter.txt, no glance.json
  hint: give --run another path
"""
    )
    assert files(Path("thesis")) == before


def test_without_simpletuner_it_ends_with_3(
    glance: Glance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = tmp_path / "bin"
    scripts.mkdir()
    (scripts / "python").symlink_to(Path(sys.executable).resolve())
    monkeypatch.setattr(sys, "executable", str(scripts / "python"))  # `glance` starts this

    done = glance(*TRAIN, PATH=str(scripts), PYTHONPATH=os.pathsep.join(sys.path))

    assert (done.code, done.out) == (3, "")
    assert f"error: there is no `simpletuner` command on PATH or in {scripts}\n" in done.err
    assert "  hint: " in done.err
    assert not Path("runs").exists()


def test_a_place_that_cannot_be_written_ends_with_3(
    invoke: Glance, simpletuner: FakeSimpleTuner
) -> None:
    done = invoke(*TRAIN, "--run", "cat.txt/run", "--json")

    assert (done.code, simpletuner.starts) == (3, [])
    (problem,) = json.loads(done.out)["error"]["problems"]
    assert problem["message"] == "cannot write cat.txt/run: Not a directory"
    assert problem["message"] in done.err


# Failures


def test_a_failure_ends_with_5_and_the_next_run_goes_on(
    glance: Glance, invoke: Glance, simpletuner: FakeSimpleTuner
) -> None:
    simpletuner.behave(fast="out of memory")

    done = glance(*TRAIN, "--quiet")

    assert (done.code, done.out) == (5, "")
    assert (
        done.err
        == """\
error: the fast phase failed (SimpleTuner returned 1): the accelerator ran out of memory
  hint: close other programs that use it; then a smaller --resolution, or \
--set base_model_precision=int4-quanto
the trainer's last lines:
  | Epoch 1/1, Steps:  1/5
  | loading weights
  | torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 72.00 MiB.
its whole log: runs/cat/logs/glance-fast.log
"""
    )
    assert states() == ["done", "failed"]

    simpletuner.behave()
    assert invoke(*TRAIN).code == 0
    assert simpletuner.phases == ["slow", "fast", "fast"]


def test_a_failure_is_a_json_document_too(invoke: Glance, simpletuner: FakeSimpleTuner) -> None:
    simpletuner.behave(slow="no file")

    done = invoke(*TRAIN, "--json", "--quiet")

    error = json.loads(done.out)["error"]
    assert (done.code, error["exit_code"], error["returncode"]) == (5, 5, 0)
    assert error["log"] == "runs/cat/logs/glance-slow.log"
    assert error["tail"][-1] == "Training complete"
    assert error["problems"][0]["message"].startswith("the slow phase left no sound LoRA")


def test_a_token_is_shown_nowhere(glance: Glance, simpletuner: FakeSimpleTuner) -> None:
    token = "hf_" + "Secret" * 5
    simpletuner.behave(slow="secret")

    done = glance(*TRAIN, "--verbose", "--events", "events.jsonl", HF_TOKEN=token)

    assert done.code == 5
    assert "| logging in with ***" in done.err
    assert token not in done.out + done.err
    assert [path for path, (text, _) in files(Path()).items() if token.encode() in text] == []


# Signals


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_everything_and_the_next_run_goes_on(
    start_glance: StartGlance,
    invoke: Glance,
    simpletuner: FakeSimpleTuner,
    number: signal.Signals,
    code: int,
) -> None:
    simpletuner.behave(slow="hang")
    running = start_glance(*TRAIN, "--phase", "slow", "--quiet", "--stop-within", "0")
    simpletuner.wait_until_ready()
    assert len(simpletuner.processes()) == 3  # supervisor, trainer, worker

    running.send(number)

    assert running.finish() == (code, "stopped: run the same command again to continue\n")
    assert simpletuner.processes() == []
    assert states() == ["stopped", "pending"]
    simpletuner.behave()
    assert invoke(*TRAIN, "--phase", "slow").code == 0
    assert [start["resumed"] for start in simpletuner.starts] == [0, 2]
    assert states() == ["done", "pending"]


def test_a_second_ctrl_c_hurries_a_stubborn_trainer(
    start_glance: StartGlance, simpletuner: FakeSimpleTuner
) -> None:
    simpletuner.behave(slow="stubborn")
    running = start_glance(*TRAIN, "--quiet", "--stop-within", "0")
    simpletuner.wait_until_ready()

    running.send(signal.SIGINT)
    wait_for((simpletuner.folder / "asked").exists)
    running.send(signal.SIGINT)

    assert running.finish()[0] == 130
    assert simpletuner.processes() == []
    assert not (simpletuner.folder / "still there").exists()
    assert states() == ["stopped", "pending"]


def test_a_first_ctrl_c_waits_for_a_checkpoint(
    start_glance: StartGlance, invoke: Glance, simpletuner: FakeSimpleTuner
) -> None:
    simpletuner.behave(slow="endless")
    running = start_glance(*TRAIN, "--phase", "slow")
    simpletuner.wait_until_ready()

    running.send(signal.SIGINT)

    code, err = running.finish()
    assert code == 130
    assert "stopping at the next checkpoint, within 60 s; Ctrl-C again: at once\n" in err
    (checkpoint,) = Path("runs/cat/output/glance-slow").glob("checkpoint-*")
    assert (checkpoint / "glance.seal").exists()
    assert not Path("runs/cat/config/requests.json").exists()
    simpletuner.behave()
    assert invoke(*TRAIN, "--phase", "slow").code == 0
    assert [f"checkpoint-{start['resumed']}" for start in simpletuner.starts][1] == checkpoint.name


def test_a_second_ctrl_c_does_not_wait(
    start_glance: StartGlance, simpletuner: FakeSimpleTuner
) -> None:
    simpletuner.behave(slow="hang")  # no checkpoint ever comes
    running = start_glance(*TRAIN)
    simpletuner.wait_until_ready()

    running.send(signal.SIGINT)
    wait_for(lambda: "manual_checkpoint" in Path("runs/cat/config/requests.json").read_text())
    running.send(signal.SIGINT)

    assert running.finish()[0] == 130
    assert simpletuner.processes() == []


def test_a_checkpoint_that_does_not_come_is_not_waited_for_longer(
    start_glance: StartGlance, simpletuner: FakeSimpleTuner
) -> None:
    simpletuner.behave(slow="hang")
    running = start_glance(*TRAIN, "--stop-within", "0.5")
    simpletuner.wait_until_ready()

    running.send(signal.SIGINT)

    assert running.finish()[0] == 130
    assert simpletuner.processes() == []


@pytest.mark.parametrize("which", ["supervisor", "trainer"])
def test_whichever_process_is_killed_none_is_left_and_the_next_start_goes_on(
    start_glance: StartGlance, invoke: Glance, simpletuner: FakeSimpleTuner, which: str
) -> None:
    simpletuner.behave(slow="hang")
    running = start_glance(*TRAIN, "--phase", "slow", "--quiet")
    simpletuner.wait_until_ready()

    for process in simpletuner.processes():
        if ("supervisor.py" in " ".join(process.cmdline())) is (which == "supervisor"):
            process.kill()
            break

    assert running.finish()[0] == 5
    assert simpletuner.processes() == []
    assert states() == ["failed", "pending"]
    simpletuner.behave()
    assert invoke(*TRAIN, "--phase", "slow").code == 0
    assert [start["resumed"] for start in simpletuner.starts] == [0, 2]


def test_a_second_training_of_a_run_is_refused(
    start_glance: StartGlance, invoke: Glance, simpletuner: FakeSimpleTuner
) -> None:
    simpletuner.behave(slow="hang")
    running = start_glance(*TRAIN, "--stop-within", "0")
    simpletuner.wait_until_ready()
    wait_for(Path("runs/cat/output/glance-slow/checkpoint-2/glance.seal").exists)
    before = files(Path("runs"))

    done = invoke(*TRAIN)

    assert done.code == 4
    assert re.match(
        r"error: run runs/cat is being trained by process \d+, since 20\S+\n"
        r"  hint: wait for it, end it, or give another --run\n",
        done.err,
    )
    assert files(Path("runs")) == before
    running.send(signal.SIGINT)
    assert running.finish()[0] == 130
    assert not Path("runs/cat/glance.lock").exists()


def test_the_trainer_of_a_killed_glance_is_waited_for(
    start_glance: StartGlance, invoke: Glance, simpletuner: FakeSimpleTuner
) -> None:
    simpletuner.behave(slow="slow death")
    running = start_glance(*TRAIN, "--quiet")
    simpletuner.wait_until_ready()
    running.send(signal.SIGKILL)
    running.finish()
    simpletuner.behave()

    done = invoke(*TRAIN)

    assert done.code == 0, done.err
    assert simpletuner.phases == ["slow", "slow", "fast"]
    assert not Path("runs/cat/glance.lock").exists()


def test_a_trainer_that_ends_slowly_is_waited_for(
    start_glance: StartGlance, simpletuner: FakeSimpleTuner
) -> None:
    simpletuner.behave(slow="slow death")
    running = start_glance(*TRAIN, "--quiet")
    simpletuner.wait_until_ready()

    running.send(signal.SIGTERM)

    assert running.finish()[0] == 143
    assert (simpletuner.folder / "said goodbye").exists()
    assert "part 4999 of 5000" in Path("runs/cat/logs/glance-slow.log").read_text()


def test_the_tree_does_not_outlive_a_killed_glance(
    start_glance: StartGlance, invoke: Glance, simpletuner: FakeSimpleTuner
) -> None:
    simpletuner.behave(slow="hang")
    running = start_glance(*TRAIN, "--phase", "slow", "--quiet")
    simpletuner.wait_until_ready()

    running.send(signal.SIGKILL)

    assert running.finish() == (-signal.SIGKILL, "")
    wait_for(lambda: simpletuner.processes() == [])
    assert states() == ["training", "pending"]
    simpletuner.behave()
    assert invoke(*TRAIN, "--phase", "slow").code == 0
    assert states() == ["done", "pending"]


def test_a_single_file_is_trained_with_the_rest_of_its_base(
    invoke: Glance, simpletuner: FakeSimpleTuner
) -> None:
    marks = find_family("sd3").marks.original
    save_file({name: np.zeros(1) for name in marks}, "mine.safetensors")

    done = invoke(
        *("train", "--image", "cat.png", "--resolution", "64", "--device", "cpu"),
        *("--model", "mine.safetensors", "--base", "acme/sd3", "--dry-run", "--json"),
    )

    assert done.code == 0
    config = json.loads(done.out)["files"]["config/glance-slow/config.json"]
    assert config["model_family"] == "sd3", "read from the file"
    assert config["pretrained_model_name_or_path"] == "acme/sd3"
    assert config["pretrained_transformer_model_name_or_path"] == "transformer"
    assert not Path("runs").exists()


def test_a_lora_is_no_model_to_train_on(invoke: Glance, simpletuner: FakeSimpleTuner) -> None:
    save_file({"transformer.a.lora_A.weight": np.zeros(1)}, "lora.safetensors")

    done = invoke("train", "--image", "cat.png", "--model", "lora.safetensors", "--dry-run")

    assert done.code == 4
    assert done.err.startswith("error: model lora.safetensors is a LoRA, not a model to train on\n")


def test_a_cached_model_of_another_family_is_refused(
    invoke: Glance, simpletuner: FakeSimpleTuner
) -> None:
    done = invoke(*TRAIN, "--family", "sd3", "--dry-run")

    assert done.code == 3
    assert done.err == (
        "error: model acme/tiny is a FluxPipeline, Stable Diffusion 3.5 needs a "
        "StableDiffusion3Pipeline\n"
        "  hint: leave out --family, or give the model that belongs to it\n"
    )


def test_what_comes_next_for_a_family_that_edits(
    invoke: Glance, simpletuner: FakeSimpleTuner
) -> None:
    Path("edit/transformer").mkdir(parents=True)
    Path("edit/model_index.json").write_text('{"_class_name": "QwenImageEditPlusPipeline"}')
    Image.new("RGB", (64, 64)).save("before.png")
    train = ("train", "--image", "cat.png", "--resolution", "64", "--steps", "5", "--rank", "4")
    family = ("--family", "qwen_image_edit_2509", "--model", "edit", "--device", "cpu")

    refused = invoke(*train, *family)
    done = invoke(*train, *family, "--reference", "before.png")

    assert refused.code == 4
    assert "pass it with --reference" in refused.err
    assert done.code == 0
    assert 'next: glance infer --run runs/cat --prompt "..." --reference x.png' in done.err
    without = invoke("infer", "--prompt", "by night")
    assert without.code == 2
    assert without.err.startswith(
        "error: Qwen-Image-Edit-2509 edits a picture, and there is no --reference\n"
    )
    unfit = invoke("infer", "--prompt", "by night", "--reference", "cat.txt")
    assert unfit.code == 4
    assert unfit.err.startswith("error: reference cat.txt")


def test_a_picture_to_edit_is_refused_where_nothing_edits(
    invoke: Glance, simpletuner: FakeSimpleTuner
) -> None:
    invoke(*TRAIN)

    done = invoke("infer", "--prompt", "x", "--reference", "cat.png")

    assert done.code == 2
    assert done.err.startswith("error: --reference: FLUX.1 paints from text alone\n")
