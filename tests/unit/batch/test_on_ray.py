"""What is decided of a batch on Ray without a cluster."""

from pathlib import Path

import pytest

from glance.batch import on_ray
from glance.batch.on_ray import OnRay, _needs
from glance.batch.request import BatchTrainRequest
from glance.batch.worker import Job
from glance.core.errors import SetupError, UsageError

type Node = dict[str, float]


def test_without_the_extra_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_ray, "find_spec", lambda _: None)

    with pytest.raises(SetupError, match="the package ray is missing") as caught:
        OnRay("auto", Path("runs"))

    assert caught.value.exit_code == 3
    assert caught.value.problems[0].hint == "in glance's clone: uv sync --extra ray"


@pytest.mark.parametrize(
    ("address", "variable"),
    [("ray://host:10001", ""), ("host", ""), ("local", ""), (":6379", ""), ("auto", "ray://x:1")],
)
def test_an_address_is_auto_or_that_of_a_head(
    address: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", variable)

    with pytest.raises(UsageError, match=f"--ray {address}.*neither auto nor the HOST:PORT"):
        OnRay(address, Path("runs"))


def test_devices_are_not_named_where_ray_gives_them() -> None:
    with pytest.raises(UsageError, match="--devices and --ray exclude each other"):
        BatchTrainRequest(ray="auto", devices=(0,))


@pytest.mark.parametrize(
    ("nodes", "words", "gpus", "cpus"),
    [
        ([{"CPU": 16}, {"CPU": 4}, {}], (), 0, 4),  # a node trains one at a time
        ([{"CPU": 16, "GPU": 4}, {"CPU": 64}], (), 1, 4),  # four at a time, on that node alone
        ([{"CPU": 16, "GPU": 8}, {"CPU": 8, "GPU": 1}], ("--device", "auto"), 1, 2),
        ([{"GPU": 2}], ("--device", "cuda"), 1, 0),
        ([{"CPU": 8}], ("--device", "cuda"), 1, 1),  # a GPU is yet to come
        ([{"CPU": 16, "GPU": 4}, {"CPU": 8}], ("--device", "cpu"), 0, 8),
    ],
)
def test_a_job_takes_a_gpu_with_its_share_of_the_cpus_or_a_node(
    nodes: list[Node], words: tuple[str, ...], gpus: int, cpus: int
) -> None:
    command = ("train", "--image", "a.png", *words, "--run", "runs/a")
    job = Job(number=1, name="a", command=command, run=Path("runs/a"), folder=Path.cwd())

    assert _needs(job, nodes) == {"num_gpus": gpus, "num_cpus": cpus}
