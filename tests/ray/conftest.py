"""A Ray cluster of two nodes, and a server of S3, both on this machine and started once."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes.ray_cluster import Running, TwoNodes
from fakes.trainer import FakeSimpleTuner


@pytest.fixture(scope="session")
def s3_server() -> Iterator[dict[str, str]]:
    """A server of S3 with one empty bucket; yields the environment that names it."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="bucket")
    yield environment
    server.stop()


@pytest.fixture
def objects(
    s3_server: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], set[str]]:
    """The server is found; returns what lists the objects below a folder of the bucket."""
    import boto3

    for name, value in {**s3_server, "TMPDIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)

    def list_objects(folder: str) -> set[str]:
        pages = boto3.client("s3").get_paginator("list_objects_v2")
        found = pages.paginate(Bucket="bucket", Prefix=f"{folder}/")
        return {
            one["Key"].removeprefix(f"{folder}/")
            for page in found
            for one in page.get("Contents", ())
        }

    return list_objects


@pytest.fixture(scope="module")
def cluster(
    s3_server: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TwoNodes]:
    """The cluster, as whoever comes first finds it; gone when its tests are over."""
    nodes = TwoNodes(tmp_path_factory.mktemp("cluster"), s3_server)
    yield nodes
    nodes.close()


@pytest.fixture
def trainer(cluster: TwoNodes) -> FakeSimpleTuner:
    """What stands for SimpleTuner on both nodes: it takes its time, and has done nothing yet."""
    cluster.complete()
    fake = cluster.trainer
    for name in ("starts.jsonl", "ready"):
        (fake.folder / name).unlink(missing_ok=True)
    fake.behave(slow="steady", fast="steady")
    return fake


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    """Begin a batch of the folder pics."""
    begun: list[Running] = []

    def begin(*arguments: str) -> Running:
        begun.append(Running([*arguments]))
        return begun[-1]

    yield begin
    for one in begun:
        with one.process as process:
            process.kill()
