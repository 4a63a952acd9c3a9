"""`glance infer` as users run it: processes, files, exit codes."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from plain_loops import FAST, SLOW

from glance.core.device import Precision
from glance.sampling.generate import run_generation
from glance.sampling.plan import plan_generation
from glance.sampling.request import InferRequest
from glance.schedule.options import ScheduleOptions


def test_the_newest_finished_run_is_used_and_named(invoke: Callable, run_folder: Path) -> None:
    done = invoke("infer", "--prompt", "A lighthouse, twice", "--json")

    assert done.code == 0, done.err
    (image,) = done.document["images"]
    assert image == "runs/made/images/a-lighthouse-twice-0.png"
    assert Image.open(image).size == (64, 64)
    assert "using the newest finished run, runs/made" in done.err
    guide = zip(("slow", "fast"), (SLOW, FAST), strict=True)
    assert done.document["sigmas"] == {
        phase: [round(step / 1000, 7) for step in steps] for phase, steps in guide
    }
    assert list(done.document["seconds"]) == ["load", "encode", "slow", "fast", "decode"]


def test_the_users_own_lists_are_run_in_bf16_too_and_from_a_moved_run(run_folder: Path) -> None:
    moved = run_folder.rename(run_folder.parents[1] / "elsewhere")
    lists = ScheduleOptions(slow_timesteps="1,0.9", fast_timesteps="500")

    asked = {"prompts": ("a hill",), "schedule": lists, "dtype": Precision.BF16}
    result = run_generation(plan_generation(InferRequest(run=moved, **asked)), lambda _: None)

    assert [list(values) for values in result.sigmas.values()] == [[1.0, 0.9], [0.5]]
    assert result.images[0].is_relative_to(moved)
    assert result.images[0].exists()


def test_ctrl_c_keeps_what_is_generated_and_the_same_command_goes_on(run_folder: Path) -> None:
    arguments = ["infer", "--prompt", "a hill", "--count", "500", "--output", "out"]
    # Where the tests run in the background SIGINT is ignored, and children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        running = subprocess.Popen(
            [sys.executable, "-m", "glance", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    assert running.stdout is not None
    first = running.stdout.readline().strip()

    running.send_signal(signal.SIGINT)

    out, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert err.endswith("stopped: run the same command again to continue\n")
    told = {first, *out.split()}
    generated = {f"out/{path.name}" for path in Path("out").iterdir()}
    assert told <= generated
    assert len(generated - told) <= 1  # it may come between writing and telling
    plan = plan_generation(InferRequest(prompts=("a hill",), count=500, output=Path("out")))
    assert {str(one.output) for one in plan.images if one.is_done} == generated


def test_what_sampling_imports_can_be_imported_beforehand() -> None:
    code = """
import sys
from glance.models.families import find_family
from glance.sampling.generate import import_sampler

family = find_family("flux")
import_sampler(family)
before = set(sys.modules)

import diffusers
import glance.sampling.pipeline.glance_pipeline, glance.sampling.pipeline.load

getattr(diffusers, family.pipeline)
assert set(sys.modules) == before, set(sys.modules) - before
assert "diffusers.pipelines.flux.pipeline_flux" in before
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
