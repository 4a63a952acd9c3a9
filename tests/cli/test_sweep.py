"""`glance sweep` as users meet it: its two streams and its exit codes."""

import json
import re
import signal
from pathlib import Path

import pytest
from fakes.commands import Glance, StartGlance, states
from fakes.trainer import FakeSimpleTuner

pytest_plugins = ["fakes.plugin"]
pytestmark = pytest.mark.usefixtures("pair")

SMALL = ["--model", "acme/tiny", "--steps", "5", "--resolution", "64", "--device", "cpu"]
PLAN = ["sweep", "--image", "cat.png", *SMALL, "--rank", "4,8"]
SWEEP = [*PLAN, "--no-pictures"]


def test_a_dry_run_lists_the_points_and_touches_nothing(glance: Glance) -> None:
    done = glance(*PLAN, "--schedule", "seed,paper", "--dry-run")

    assert done.code == 0
    assert done.out.splitlines()[:3] == [
        "runs/cat-sweep",
        "       point  rank    rate  steps  schedule     slow     fast",
        " rank-4-seed     4  0.0005      5      seed  pending  pending",
    ]
    assert "4 points, 8 starts of SimpleTuner to go\nestimate: " in done.err
    assert not Path("runs").exists()


def test_a_dry_runs_json_is_one_document(glance: Glance) -> None:
    done = glance(*PLAN, "--picture-seed", "7", "--prompt", "a hill", "--dry-run", "--json")

    assert done.code == 0
    assert [point["name"] for point in done.document["points"]] == ["rank-4", "rank-8"]
    assert done.document["starts"] == 4
    assert (done.document["prompts"], done.document["picture_seeds"]) == (["a hill"], [7])


def test_it_prints_a_table_and_talks_on_stderr(
    glance: Glance, simpletuner: FakeSimpleTuner
) -> None:
    done = glance(*SWEEP)

    assert done.code == 0
    assert re.sub(r"\d+ s", "2 s", done.out) == (
        " point  state  slow loss  fast loss  trained  SSIM  base's  PSNR  base's\n"
        "rank-4   done     0.3839     0.3839      2 s     -       -     -       -\n"
        "rank-8   done     0.3839     0.3839      2 s     -       -     -       -\n"
    )
    assert done.err.startswith(
        "point 1 of 2: rank-4\ncat.png is trained at 64x64\nslow: training 5 steps\n"
    )
    assert done.err.endswith('next: glance infer --run runs/cat-sweep/rank-4 --prompt "..."\n')


def test_json_is_what_sweep_json_holds(glance: Glance, simpletuner: FakeSimpleTuner) -> None:
    done = glance(*SWEEP, "--json", "--quiet", "--events", "events.jsonl")

    assert (done.code, done.err) == (0, "")
    kept = json.loads(Path("runs/cat-sweep/sweep.json").read_text())
    assert [point["last_loss"] for point in done.document["points"]] == [
        point["last_loss"] for point in kept["points"]
    ]
    assert '"message": "point 2 of 2: rank-8"' in Path("events.jsonl").read_text()


def test_train_continues_a_point(glance: Glance, simpletuner: FakeSimpleTuner) -> None:
    simpletuner.behave(fast="out of memory")
    assert glance(*SWEEP).code == 5
    simpletuner.behave()

    run = Path("runs/cat-sweep/rank-8")
    alone = glance("train", "--image", "cat.png", *SMALL, "--rank", "8", "--run", run)

    assert alone.code == 0, alone.err
    assert states(run / "glance.json") == ["done", "done"]
    assert simpletuner.phases == ["slow", "fast"] * 2 + ["fast"]


def test_points_that_fail_are_named_at_the_end(
    glance: Glance, simpletuner: FakeSimpleTuner
) -> None:
    simpletuner.behave(slow="out of memory")

    done = glance(*SWEEP, "--quiet")

    assert done.code == 5
    assert re.findall(r"(rank-\d) +(\w+)", done.out) == [("rank-4", "failed"), ("rank-8", "failed")]
    assert re.findall(r"^error: (rank-\d): the slow phase failed", done.err, re.M) == [
        "rank-4",
        "rank-8",
    ]
    assert "its whole log: runs/cat-sweep/rank-8/logs/glance-slow.log" in done.err


def test_json_is_one_document_when_a_point_fails(
    glance: Glance, simpletuner: FakeSimpleTuner
) -> None:
    simpletuner.behave(fast="out of memory")

    done = glance(*SWEEP, "--json")

    assert done.code == 5
    assert [point["state"] for point in done.document["points"]] == ["failed", "failed"]
    assert done.document["points"][0]["problem"].startswith("rank-4: the fast phase failed")
    assert done.err.count("error: ") == 2


def test_bad_input_is_exit_4_with_all_its_problems(
    glance: Glance, simpletuner: FakeSimpleTuner
) -> None:
    done = glance(*SWEEP, "--learning-rate", "1e-4,7", "--schedule", "seed,nope")

    assert done.code == 4
    assert "error: rank-4-rate-1e-4-nope, rank-4-rate-7e0-nope, rank-8-" in done.err
    assert "--learning-rate 7: it must be at most 1" in done.err
    assert simpletuner.starts == []


def test_ctrl_c_is_exit_130_and_the_same_command_continues(
    glance: Glance, start_glance: StartGlance, simpletuner: FakeSimpleTuner
) -> None:
    simpletuner.behave(fast="hang")
    running = start_glance(*SWEEP, "--stop-within", "0")
    simpletuner.wait_until_ready()

    running.send(signal.SIGINT)

    code, err = running.finish()
    assert (code, simpletuner.processes()) == (130, [])
    assert "run the same command again to continue" in err
    simpletuner.behave()
    assert glance(*SWEEP).code == 0
    assert simpletuner.phases == ["slow", "fast", "fast", "slow", "fast"]
