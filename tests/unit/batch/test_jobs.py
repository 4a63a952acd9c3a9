"""What a folder or a file asks for, as jobs; and all that may be wrong with it."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from glance.batch.board import name_numbers
from glance.batch.jobs import BatchPlan, plan_batch
from glance.batch.request import BatchTrainRequest
from glance.core.errors import GlanceError
from glance.training.request import TrainRequest

COMMON = "model: acme/tiny, steps: 5, resolution: 64, device: cpu"

type MakePlan = Callable[..., BatchPlan]


@pytest.fixture
def plan() -> MakePlan:
    """Write a file of jobs, beside three images of which one has no caption, and plan it."""
    for name in ("a", "b", "c"):
        image = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
        image.putpixel((0, 0), (ord(name), 0, 0))
        Path("pics").mkdir(exist_ok=True)
        image.save(f"pics/{name}.png")
        if name != "b":
            Path(f"pics/{name}.txt").write_text(f"a gradient, {name}\n")

    def plan(said: str | None, name: str = "jobs.yaml", **common: Any) -> BatchPlan:
        if said is not None:
            Path(name).write_text(said)
        source = Path("pics" if said is None else name)
        usual: Mapping[str, Any] = {"device": "cpu", "resolution": "64", "model": "acme/tiny"}
        request = TrainRequest(**(usual if said is None else {}) | common)
        return plan_batch(BatchTrainRequest(source=source, common=request))

    return plan


def refuse(plan: MakePlan, said: str, name: str = "jobs.yaml") -> list[str]:
    with pytest.raises(GlanceError) as caught:
        plan(said, name)
    assert caught.value.exit_code == 4
    assert all(problem.hint for problem in caught.value.problems)
    return [problem.message for problem in caught.value.problems]


def test_a_folder_is_a_job_an_image_and_a_bad_one_is_refused_alone(plan: MakePlan) -> None:
    found = plan(None, rank=4)

    assert [(job.number, job.name, str(job.run)) for job in found.jobs] == [
        (1, "a", "runs/pics/a"),
        (3, "c", "runs/pics/c"),
    ]
    words = "train --image pics/a.png --resolution 64 --model acme/tiny --run runs/pics/a"
    assert " ".join(found.jobs[0].command) == f"{words} --rank 4 --device cpu"
    assert [(one.number, one.exit_code) for one in found.refused] == [(2, 4)]
    assert "pics/b.txt" in str(found.refused[0].problems)
    assert "--caption" not in str(found.refused[0].problems[0].hint)


def test_several_values_are_all_combinations_and_a_list_of_a_repeatable_option_is_its_value(
    plan: MakePlan,
) -> None:
    found = plan(
        f"defaults: {{{COMMON}}}\n"
        "jobs:\n"
        "- {image: pics/a.png, rank: [4, 8], lr: [1e-3, 0.0005]}\n"
        "- {image: [pics/a.png, pics/c.png], set: [a=1, b=2], name: both}\n"
        "- {each: pics, phase: [slow, fast]}\n"
        "- {command: distill, prompt: [a cat, a dog]}\n"
    )

    assert [job.name for job in found.jobs] == [
        *(f"a-rank-{rank}-learning-rate-{rate}" for rank in (4, 8) for rate in ("1e-3", "0.0005")),
        *("a-phase-slow", "a-phase-fast", "c-phase-slow", "c-phase-fast", "tiny-distilled"),
    ]
    assert found.jobs[1].command[-6:-2] == ("--rank", "4", "--learning-rate", "0.0005")
    # a and b are no options of SimpleTuner's: that is found when the job is planned
    assert {one.name for one in found.refused} == {"both", "b-phase-slow", "b-phase-fast"}
    assert [*found.jobs[-1].command[:5]] == ["distill", "--prompt", "a cat", "--prompt", "a dog"]


def test_flags_stand_before_a_file_and_a_job_before_its_defaults(plan: MakePlan) -> None:
    said = f"defaults: {{{COMMON}, rank: 2}}\njobs: [{{image: pics/a.png, rank: 4, lr: 0.1}}]"

    of_file, of_flag = plan(said), plan(said, learning_rate=0.5)

    assert "--rank 4 --learning-rate 0.1" in " ".join(of_file.jobs[0].command)
    assert "--rank 4 --learning-rate 0.5" in " ".join(of_flag.jobs[0].command)


def test_json_lines_are_a_job_each(plan: MakePlan) -> None:
    common = {"model": "acme/tiny", "device": "cpu", "resolution": 64}
    lines = [json.dumps({"image": "pics/a.png", "rank": [2, 4], **common}), "", "{}"]

    found = plan("\n".join(lines[:2]), "jobs.jsonl")

    assert [job.name for job in found.jobs] == ["a-rank-2", "a-rank-4"]
    assert refuse(plan, "\n".join(lines), "jobs.jsonl") == ["jobs.jsonl: image is missing"]
    assert refuse(plan, '{"image": 1, "image": 2}\n{"rank"}', "jobs.jsonl") == [
        "jobs.jsonl, line 1: image is there twice",
        "jobs.jsonl, line 2: Expecting ':' delimiter",
    ]


@pytest.mark.parametrize(
    ("said", "messages"),
    [
        ("- {image: pics/a.png, rank: eight}", ["line 1: rank eight: it must be a whole number"]),
        (
            "- image: pics/a.png\n  rnak: 8\n- image: pics/c.png\n  lerning-rate: 1",
            [
                "line 2: rnak is no option of glance train",
                "line 4: lerning-rate is no option of glance train",
            ],
        ),
        ("- {image: a.png, run: [x, y]}", ["line 1: run holds one value, not a list"]),
        ("- {image: a.png, rank: []}", ["line 1: rank is an empty list"]),
        ("- {image: a.png, rank: [[4], [8]]}", ["line 1: rank holds one value, not a list"]),
        (
            "- image: pics/a.png\n- image: pics/c.png\n- image: pics/a.png",
            ["line 3: jobs 1 and 3 have one run folder, runs/jobs/a"],
        ),
        (
            "- {image: pics/a.png, run: runs/x}\n- {image: pics/c.png, run: ./runs/x}",
            ["line 2: jobs 1 and 2 have one run folder, runs/x"],
        ),
        (
            "- {image: a.png, run: runs/x, rank: [4, 8]}",
            ["line 1: jobs 1 and 2 have one run folder, runs/x"],
        ),
        ("- {resume: runs/x}", ["line 1: resume is no option of a job"]),
        ("- {image: a.png, gpu_ids: 0}", ["line 1: gpu_ids is no option of a job"]),
        ("- {command: infer}", ["line 1: command infer: a job is none of glance's"]),
        ("- {each: nowhere}", ["line 1: each nowhere: it is not a folder"]),
        ("- {image: a.png, name: ../x}", ["line 1: name ../x: it is no name of a folder"]),
        ("- {rank: 4}", ["line 1: image is missing"]),
        ("rank: 4", ["line 1: rank is none of defaults, jobs"]),
    ],
)
def test_what_is_wrong_with_a_file_is_said_once_with_its_line(
    plan: MakePlan, said: str, messages: list[str]
) -> None:
    assert refuse(plan, said) == [f"jobs.yaml, {message}" for message in messages]


@pytest.mark.parametrize("said", ["- a.png", "a.png", "[]", "", "jobs: 3", "jobs: []"])
def test_what_is_no_list_of_jobs_is_refused(plan: MakePlan, said: str) -> None:
    assert len(refuse(plan, said)) == 1


def test_numbers_are_named_as_people_do() -> None:
    assert name_numbers([7, 1, 2, 3]) == "1-3, 7"


def test_what_all_runs_take_together_is_said_before_the_disk_is_full(
    plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = plan(None, rank=512, model="black-forest-labs/FLUX.1-dev", resolution="64")
    monkeypatch.setattr("glance.batch.jobs.free_gigabytes", lambda _: 40.0)

    (warning,) = found.warn(cleans=False)

    assert (len(found.to_do), found.gigabytes) == (2, 47.6)
    assert warning.message.startswith("the runs take about 48 GB in all, and there are 40 free")
    assert list(found.warn(cleans=True)) == []
