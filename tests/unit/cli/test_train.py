"""`glance train` as users meet it: its two streams and its exit codes."""

import json
import os
import re
import sys
from pathlib import Path

import pytest
from fakes.commands import SMALL, TRAIN, Glance, StartGlance, files, replaced, states
from fakes.trainer import FakeSimpleTuner
from PIL import Image

pytestmark = pytest.mark.usefixtures("pair", "simpletuner")

ROOT = Path(__file__).parents[3]
needs_whole = pytest.mark.usefixtures("fully_trained")


def test_it_prints_the_run_and_talks_on_stderr(glance: Glance) -> None:
    done = glance(*TRAIN)

    varies = r"  [\d.]+ s a step|, \d+ s in all|(?<=in )\d+|, [\d.]+ s a step|, sha256 [0-9a-f]{12}"
    assert (done.code, done.out) == (0, "runs/cat\n")
    assert (
        re.sub(varies, "", done.err)
        == """\
cat.png is trained at 64x64
the timesteps are the guide's, made for Qwen-Image; of FLUX.1 at 64x64 --schedule auto takes \
1000,974,948,921,893 and 864,704,513,284,31
slow: training 5 steps
slow: Starting SimpleTuner
slow: Loading the model
slow: step 1 of 5  4 s left
slow: step 2 of 5  3 s left
slow: step 3 of 5  2 s left
slow: step 4 of 5  1 s left
slow: step 5 of 5  loss 0.3839  0 s left
slow: done in  s, output/glance-slow/pytorch_lora_weights.safetensors
fast: training 5 steps
fast: Starting SimpleTuner
fast: Loading the model
fast: step 1 of 5  4 s left
fast: step 2 of 5  3 s left
fast: step 3 of 5  2 s left
fast: step 4 of 5  1 s left
fast: step 5 of 5  loss 0.3839  0 s left
fast: done in  s, output/glance-fast/pytorch_lora_weights.safetensors
slow: 5 steps
slow: loss of a round: 0.3839 at first, 0.3839 at last
slow: output/glance-slow/pytorch_lora_weights.safetensors, 0.0 MB
fast: 5 steps
fast: loss of a round: 0.3839 at first, 0.3839 at last
fast: output/glance-fast/pytorch_lora_weights.safetensors, 0.0 MB
next: glance infer --run runs/cat --prompt "..."
fewer steps, with a gain that can be measured: glance distill --help
"""
    )


def test_json_is_one_document_and_events_go_to_a_file(invoke: Glance) -> None:
    Path("events.jsonl").write_text('{"event": "before", "time": 1}\n')

    done = invoke(*TRAIN, "--phase", "slow", "--json", "--quiet", "--events", "events.jsonl")

    assert (done.code, done.err, done.document["run"]) == (0, "", "runs/cat")
    slow, fast = (done.document["phases"][phase] for phase in ("slow", "fast"))
    assert (fast["state"], fast["lora"], fast["measured"]["steps"]) == ("pending", None, 0)
    assert (slow["state"], slow["steps"], slow["measured"]["steps"]) == ("done", 5, 5)
    assert slow["lora"]["path"] == "output/glance-slow/pytorch_lora_weights.safetensors"
    events = [json.loads(line) for line in Path("events.jsonl").read_text().splitlines()]
    assert all(event["time"] > 0 for event in events)
    assert events[-2].items() >= {("event", "CheckpointSaved"), ("phase", "slow")}
    assert [event["event"] for event in events] == [
        *("before", "Noted", "Noted", "PhaseStarted", "StageEntered", "StageEntered"),
        *["StepDone", "CheckpointSaved"] * 5,
        "PhaseFinished",
    ]


def test_a_reader_that_leaves_ends_it_quietly(
    start_glance: StartGlance, simpletuner: FakeSimpleTuner
) -> None:
    simpletuner.behave(slow="raving")
    running = start_glance(*TRAIN, "--quiet", "--verbose", "--events", "-")

    running.stop_reading(after="TrainerSaid")

    assert running.finish() == (1, "")
    assert states() == ["stopped", "pending"]
    assert simpletuner.processes() == []


@needs_whole
def test_the_same_command_again_starts_nothing(
    invoke: Glance, simpletuner: FakeSimpleTuner
) -> None:
    done = invoke(*TRAIN, "--json")

    assert (done.code, simpletuner.starts) == (0, [])
    assert [phase["state"] for phase in done.document["phases"].values()] == ["done", "done"]
    assert done.err.startswith("slow: already done\nfast: already done\n")


def test_names_may_hold_anything(glance: Glance, pair: Path) -> None:
    name = '--help it\'s\n"wéird" 猫; $HOME'
    pair.rename(f"{name}.png")
    pair.with_suffix(".txt").rename(f"{name}.txt")
    arguments = ["--image", f"{name}.png", "--run", f"{name} run"]

    done = glance("train", *SMALL, *arguments, "--device", "cpu", "--phase", "slow", "--quiet")

    assert (done.code, done.out, done.err) == (0, f"{name} run\n", "")
    assert states(Path(f"{name} run/glance.json")) == ["done", "pending"]


def test_a_dry_run_prints_the_plan_and_touches_nothing(
    invoke: Glance, simpletuner: FakeSimpleTuner, tmp_path: Path
) -> None:
    before = files(tmp_path)

    done = invoke(*TRAIN, "--dry-run", "--json", "--events", "events.jsonl")

    assert (done.code, done.err) == (0, "")
    document = done.document
    assert set(document) == {"run", "schedule", "pictures", "files", "commands"}
    assert document["run"] == "runs/cat"
    assert document["schedule"]["slow"]["timesteps"][:2] == [1000.0, 979.1915]
    assert document["schedule"]["fast"]["sigmas"][-1] == 0.02
    assert document["files"]["config/glance-slow/config.json"]["max_train_steps"] == 5
    assert document["commands"] == [
        ["simpletuner", "train", "--env", "glance-slow"],
        ["simpletuner", "train", "--env", "glance-fast"],
    ]
    direct = invoke(*TRAIN, "--launcher", "direct", "--dry-run", "--json")
    assert direct.document["commands"] == [["python", "-P", "-m", "simpletuner.train"]] * 2
    assert files(tmp_path) == before


@needs_whole
def test_a_dry_run_leaves_an_existing_run_alone(invoke: Glance, tmp_path: Path) -> None:
    before = files(tmp_path)

    done = invoke(*replaced(TRAIN, steps=3), "--restart", "--dry-run", "--json")

    assert done.document["files"]["config/glance-fast/config.json"]["max_train_steps"] == 3
    assert done.err.splitlines() == [
        "warning: 3 steps cannot visit the slow phase's 5 timesteps",
        "warning: 3 steps cannot visit the fast phase's 5 timesteps",
    ]
    assert files(tmp_path) == before


def test_a_dry_run_is_a_table_for_people(invoke: Glance, simpletuner: FakeSimpleTuner) -> None:
    done = invoke(*TRAIN, "--preview-every", "2", "--set", "lora_dropout=0.1", "--dry-run")

    rows = dict(re.findall(r"^(\S[\w ]*?)  +(.*)$", done.out, re.MULTILINE))
    assert done.code == 0
    assert done.err.startswith("warning: --set lora_dropout=0.1: replaces glance's 0.0\n")
    assert "{" not in done.out
    assert rows.items() >= {
        ("run", "runs/cat, new"),
        ("image", "cat.png, 64x64"),
        ("trained at", "64x64"),
        ("caption", "a grey circle"),
        ("model", "acme/tiny (flux)"),
        ("further options", "lora_dropout=0.1"),
        (
            "previews",
            "the pair so far, every 2 steps of the fast phase and at the end, in "
            "runs/cat/images/previews",
        ),
        ("commands", "simpletuner train --env glance-slow"),
    }
    assert rows["training"].startswith("slow and fast: 5 steps, rank 4, alpha 16, rate 0.0005")
    assert re.match(r"[\d.]+ GB of system memory, [\d.]+ GB on the disk", rows["takes"])
    assert "how long a step takes is not known" in done.out
    assert "config/glance-fast/config.json\n" in done.out


def test_the_examples_of_the_help_work(invoke: Glance, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = re.findall(r"^\s*glance (train .+)$", invoke("train", "--help").out, re.MULTILINE)
    monkeypatch.chdir(ROOT)

    assert [invoke(*example.split(), "--dry-run").code for example in examples] == [0, 0]


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


def test_a_failure_ends_with_5_and_the_next_run_goes_on(
    invoke: Glance, simpletuner: FakeSimpleTuner
) -> None:
    simpletuner.behave(fast="out of memory")

    done = invoke(*TRAIN, "--quiet", "--json")

    error = done.document["error"]
    assert (done.code, error["exit_code"], error["returncode"]) == (5, 5, 1)
    assert error["problems"][0]["message"].endswith("the accelerator ran out of memory")
    assert (error["log"], len(error["tail"])) == ("runs/cat/logs/glance-fast.log", 3)
    assert (
        done.err
        == """\
error: the fast phase failed (SimpleTuner returned 1): the accelerator ran out of memory
  hint: close other programs that use it; then a smaller --resolution, or the settings of a \
smaller card: --vram 16, 12 or 8
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


def test_a_token_is_shown_nowhere(glance: Glance, simpletuner: FakeSimpleTuner) -> None:
    token = "hf_" + "Secret" * 5
    simpletuner.behave(slow="secret")

    done = glance(*TRAIN, "--verbose", "--events", "events.jsonl", HF_TOKEN=token)

    assert done.code == 5
    assert "| logging in with ***" in done.err
    assert token not in done.out + done.err
    assert [path for path, (text, _) in files(Path()).items() if token.encode() in text] == []


def test_what_comes_next_for_a_family_that_edits(invoke: Glance) -> None:
    Path("edit/transformer").mkdir(parents=True)
    Path("edit/model_index.json").write_text('{"_class_name": "QwenImageEditPlusPipeline"}')
    Image.new("RGB", (64, 64)).save("before.png")
    train = (*replaced(TRAIN, model="edit"), "--family", "qwen_image_edit_2509")

    refused = invoke(*train)
    done = invoke(*train, "--source-image", "before.png")

    assert refused.code == 4
    assert "pass it with --source-image" in refused.err
    assert done.code == 0
    assert 'next: glance infer --run runs/cat --prompt "..." --source-image x.png' in done.err
    without = invoke("infer", "--prompt", "by night")
    assert without.code == 4
    assert without.err.startswith(
        "error: Qwen-Image-Edit-2509 edits an image, and there is no --source-image\n"
    )
    unfit = invoke("infer", "--prompt", "by night", "--source-image", "cat.txt")
    assert unfit.code == 4
    assert unfit.err.startswith("error: reference cat.txt")
