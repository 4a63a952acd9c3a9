"""Which images of which runs a command makes, in which part; and what keeps a run out of it."""

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from fakes.commands import Glance
from fakes.pairs import write_run
from fakes.plans import pretend

from glance.batch import infer
from glance.batch.infer import BatchInferPlan, plan_batch_infer
from glance.batch.request import BatchInferRequest
from glance.core.errors import (
    DeviceUnavailable,
    GlanceError,
    InputError,
    RunError,
    SettingsError,
    UsageError,
)
from glance.core.options import command_line, from_document, to_document
from glance.core.phase import Phase
from glance.sampling.request import InferRequest

ASKED = InferRequest(prompts=("a hill", "a mill"), seeds=(1, 2), device="cpu")


@pytest.fixture(autouse=True)
def _runs() -> None:
    """Four finished runs, those of one model not side by side, and one that is not finished."""
    for name, model in (("a", "one"), ("b", "two"), ("c", "one"), ("d", "two")):
        write_run(Path("runs") / name, model=f"acme/{model}")
    unfinish(write_run(Path("runs/e"), model="acme/one").path)


def unfinish(run: Path) -> None:
    manifest = json.loads((run / "glance.json").read_text())
    manifest["phases"]["fast"]["state"] = "training"
    (run / "glance.json").write_text(json.dumps(manifest))


def plan(*runs: str, **request: Any) -> BatchInferPlan:
    places = tuple(Path("runs") / run for run in runs)
    return plan_batch_infer(BatchInferRequest(**{"runs": places, "images": ASKED, **request}))


def images(planned: BatchInferPlan) -> list[str]:
    return [str(image.output) for one in planned.runs for image in one.generation.images]


def places(*runs: str) -> list[str]:
    made = product(runs, ("a-hill", "a-mill"), (1, 2))
    return [f"images/batch/{run}/{prompt}-{seed}.png" for run, prompt, seed in made]


def test_every_finished_run_of_the_folder_has_every_image_those_of_one_model_together() -> None:
    planned = plan()

    assert images(planned) == places("a", "c", "b", "d")
    assert planned.left_out == {Path("runs/e"): "not finished: fast is training"}
    assert planned.refused == ()


def test_named_runs_come_in_their_order_each_once_and_a_folders_after_them() -> None:
    twice = plan("c", "a", "../runs/c")
    both = plan("d", folder=Path("runs"))

    assert [one.name for one in twice.runs] == ["c", "a"]
    assert [one.name for one in both.runs] == ["d", "b", "a", "c"]


@pytest.mark.parametrize("parts", [1, 2, 3, 5, 16, 23])
def test_parts_hold_every_image_once_whatever_is_there_or_cannot_be_made(parts: int) -> None:
    whole = images(plan("a", "b", "c", "d"))
    run = Path("runs/b/output/glance-fast/pytorch_lora_weights.safetensors")

    found = list[str]()
    for number in range(1, parts + 1):
        try:
            planned = plan("a", "b", "c", "d", part=(number, parts))
        except InputError:  # all of this part are those of the run that is not fit any more
            assert not run.exists()
            continue
        found += images(planned)
        for one in planned.runs[:1]:
            pretend(one.generation.images[-1])
        run.unlink(missing_ok=True)

    assert [one for one in found if "/b/" not in one] == [one for one in whole if "/b/" not in one]
    assert len({*found}) == len(found)


def test_a_part_meets_few_runs_and_reads_no_others_loras(monkeypatch: pytest.MonkeyPatch) -> None:
    read = list[str]()
    plan_one = infer.plan_generation

    def note(request: InferRequest, **options: Any) -> Any:
        read.append(str(request.run))
        return plan_one(request, **options)

    monkeypatch.setattr(infer, "plan_generation", note)

    planned = plan("a", "b", "c", "d", part=(2, 4))

    assert read == ["runs/c"]
    assert images(planned) == places("c")


def test_an_image_keeps_its_name_where_the_one_before_it_is_anothers_to_make() -> None:
    alike = InferRequest(prompts=("A hill.", "a hill"), seeds=(1,), device="cpu")
    (second,) = plan("a", images=alike, part=(2, 2)).runs[0].generation.images
    pretend(second)

    again = plan("a", images=alike, part=(2, 2))

    assert str(second.output) == "images/batch/a/a-hill-1-2.png"
    assert (again.runs[0].generation.images[0].output, again.done) == (second.output, 1)
    assert images(plan("a", images=alike, part=(1, 2))) == ["images/batch/a/a-hill-1.png"]


def test_what_is_there_is_done_and_what_shows_something_else_stays() -> None:
    first, second, *_ = plan("a").runs[0].generation.images
    pretend(first)
    second.output.write_bytes(b"somebody's own")

    planned = plan("a")

    assert planned.done == 1
    assert images(planned)[:2] == [str(first.output), "images/batch/a/a-hill-2-2.png"]


@pytest.mark.parametrize(
    ("runs", "told"),
    [
        (["e"], "run runs/e is not finished: fast is training"),
        (["gone"], "not a run folder: runs/gone"),
        (["d"], "LoRA not found: runs/d/output/glance-slow"),
    ],
)
def test_a_run_that_is_unfit_is_refused_alone_and_alone_is_an_error(
    invoke: Glance, runs: Sequence[str], told: str
) -> None:
    Path("runs/d/output/glance-slow/pytorch_lora_weights.safetensors").unlink()

    planned = plan("a", *runs)
    with pytest.raises(GlanceError, match=told) as caught:
        plan(*runs)

    assert images(planned) == places("a")
    (refused,) = planned.refused
    assert told in refused.problems[0].message
    assert (caught.value.exit_code, refused.exit_code) == (4, 4)
    flags = [word for run in ("a", *runs) for word in ("--run", f"runs/{run}")]
    done = invoke("batch", "infer", "-p", "a hill", *flags, "--dry-run", "--quiet", "--json")
    assert done.code == 4
    assert f"error: {told}" in done.err
    assert [one["run"] for one in done.document["refused"]] == [f"runs/{runs[0]}"]
    assert [one["run"] for one in done.document["runs"]] == ["runs/a"]


def test_what_all_runs_have_is_said_once_and_what_one_has_with_its_name() -> None:
    write_run(Path("runs/f"), family="sd3", model="acme/one")
    narrow = InferRequest(prompts=("x", "y"), width=100, device="cpu")
    with pytest.raises(SettingsError) as caught:
        plan("a", "b", images=narrow)
    said = InferRequest(prompts=("x",), true_cfg=2.0, device="cpu")

    planned = plan("a", "f", images=said)

    assert [one.message for one in caught.value.problems] == [
        "--width 100: it must be a multiple of 16"
    ]
    assert [str(one.run) for one in planned.refused] == ["runs/f"]
    assert [one.name for one in planned.runs] == ["a"]


def test_runs_of_one_name_and_a_folder_without_any_are_refused(invoke: Glance) -> None:
    write_run(Path("other/A"))
    unfinish(write_run(Path("begun/x")).path)

    with pytest.raises(SettingsError, match=r"images of runs/a and other/A would come into one"):
        plan_batch_infer(BatchInferRequest(runs=(Path("runs/a"), Path("other/A")), images=ASKED))
    with pytest.raises(RunError, match="there is no finished run in begun; begun/x is left out"):
        plan(folder=Path("begun"))
    for arguments, code, told in (
        (("--runs", "nowhere"), 4, "--runs nowhere: there is no such folder"),
        (("--runs", "runs/a/glance.json"), 4, "it is not a folder"),
        (("--part", "9/8"), 4, "--part 9/8: not one of N parts"),
        (("--devices", "0,0"), 4, "--devices 0,0: not the numbers of GPUs"),
        (("--devices", "0", "--device", "cpu"), 2, "--devices names GPUs, and --device cpu"),
        (("--output", "runs/a/glance.json"), 4, "is not a folder"),
    ):
        done = invoke("batch", "infer", "-p", "x", "--dry-run", *arguments)
        assert (done.code, told in done.err) == (code, True), done.err
    assert invoke("batch", "infer", "--dry-run").code == 2  # no prompt


def test_a_gpu_that_is_not_here_is_refused_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(DeviceUnavailable, match="there is none that torch could use"):
        plan("a", images=InferRequest(prompts=("x",)), devices=(0, 1))
    monkeypatch.setattr(infer, "require_device", lambda *_: None)
    monkeypatch.setattr(infer, "cuda_device_count", lambda: 2)

    with pytest.raises(DeviceUnavailable, match="--devices 1,2: there are 2 GPUs here") as caught:
        plan("a", images=InferRequest(prompts=("x",)), devices=(1, 2))

    assert caught.value.problems[0].hint == "--devices 0,1"
    assert plan("a", images=InferRequest(prompts=("x",)), devices=(1, 0)).images == 1


def test_more_images_than_memory_holds_are_to_be_made_in_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("glance.batch.infer._MOST", 7)

    with pytest.raises(SettingsError) as caught:
        plan("a", "b", "c", "d")

    assert caught.value.problems[0].message.startswith("16 images, and one command makes at most 7")
    assert caught.value.problems[0].hint == "make them in parts: --part 1/3 to --part 3/3"
    assert len(images(plan("a", "b", "c", "d", part=(3, 3)))) == 6


def test_notes_are_told_once_with_the_runs_that_they_hold_for() -> None:
    for name in "abc":
        write_run(Path("runs") / name, model="acme/one", resolution=64)
    write_run(Path("runs/d"), model="acme/one", resolution=1024)

    (note,) = plan("a", "b", "c", "d", images=InferRequest(prompts=("x",), size=(1024, 1024))).notes

    assert note.startswith("a, b, c: the pair was trained at 64x64; at 1024x1024")


def test_what_is_asked_is_said_again_by_a_command_line_and_a_file() -> None:
    request = BatchInferRequest(
        runs=(Path("runs/a"), Path("b c")),
        folder=Path("more"),
        images=InferRequest(prompts=("-x",), size=(64, 32), guidance=(2.0, 1.0), seeds=(1, 2)),
        output=Path("out"),
        devices=(0, 3),
        part=(2, 8),
    )

    document = to_document(request)

    assert from_document(BatchInferRequest, document, owner="glance batch infer") == request
    words = command_line(request)
    assert words[words.index("--part") + 1] == "2/8"
    assert words[words.index("--devices") + 1] == "0,3"
    assert "--prompt=-x" in words
    with pytest.raises(UsageError, match="a batch takes no from_image"):
        BatchInferRequest(images=InferRequest(from_image=Path("x.png")))


def test_a_dry_run_is_a_table_by_models_and_touches_nothing(invoke: Glance) -> None:
    done = invoke("batch", "infer", "-p", "a hill", "--device", "cpu", "--dry-run")

    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert (done.code, done.err) == (0, "")
    assert lines[:4] == [
        *("model acme/one (flux)", "runs runs/a 1 images, 10 steps each"),
        *("runs/c 1 images, 10 steps each", "model acme/two (flux)"),
    ]
    assert "left out runs/e: not finished: fast is training" in lines
    assert lines[-2:] == ["images 4", "result images/batch"]
    assert not Path("images").exists()


def test_the_run_of_a_phase_alone_is_enough_for_nothing_here() -> None:
    """Both LoRAs are used: `glance infer --slow-only` is for one."""
    run = Path("runs/a")
    manifest = json.loads((run / "glance.json").read_text())
    manifest["phases"][Phase.SLOW]["state"] = "pending"
    (run / "glance.json").write_text(json.dumps(manifest))

    assert plan().left_out[run] == "not finished: slow is pending"
