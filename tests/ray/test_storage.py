"""Runs that are kept in an object store: a server of S3 that the tests have started."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.commands import SMALL, Glance, replaced
from fakes.pairs import write_run
from fakes.ray_cluster import write_pairs
from fakes.trainer import FakeSimpleTuner

from glance.batch.storage import Storage
from glance.core.errors import SetupError
from glance.core.phase import Phase
from glance.runs.folder import RunFolder

type Objects = Callable[[str], set[str]]

BATCH = ["batch", "train", "pics", *SMALL, "--device", "cpu", "--json"]


def test_runs_are_moved_there_when_they_are_done_and_found_there_by_a_later_start(
    glance: Glance, simpletuner: FakeSimpleTuner, objects: Objects, tmp_path: Path
) -> None:
    write_pairs(1)
    kept = [*BATCH, "--output", "s3://bucket/done"]

    done = glance(*kept)

    assert (done.code, done.document["counts"]) == (0, {"done": 1}), done.err
    assert done.document["jobs"][0]["run"] == "s3://bucket/done/p00"
    assert done.document["jobs"][0]["losses"].keys() == {"slow", "fast"}
    names = {"glance.json", "data/p00.png", "output/glance-slow/pytorch_lora_weights.safetensors"}
    assert {f"p00/{name}" for name in names} | {"batch.json"} <= objects("done")
    assert not any(name.endswith("glance.lock") for name in objects("done"))
    assert not list(tmp_path.glob("glance-*/*/p0*"))
    again = glance(*kept)
    assert (again.code, again.document["counts"]) == (0, {"done": 1})
    assert len(simpletuner.starts) == 2
    other = glance(*replaced(kept, rank=8))
    assert (other.code, other.document["counts"]) == (4, {"refused": 1})
    assert "was trained with other settings: rank" in other.err
    longer = glance(*replaced(kept, steps=8))
    assert (longer.code, longer.document["counts"]) == (0, {"done": 1}), longer.err
    assert [one["resumed"] for one in simpletuner.starts[2:]] == [5, 5]


def test_a_move_that_was_broken_off_is_no_run_and_the_next_one_replaces_it(
    objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, run = Storage("s3://bucket/broken/"), write_run(Path("run"))
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}

    def fail(*_: object) -> None:
        raise OSError("the line is cut")

    with monkeypatch.context() as patch:
        patch.setattr(storage._files, "put_file", fail)  # what is last: the manifest
        with pytest.raises(SetupError, match="s3://bucket/broken: the line is cut"):
            storage.move(run, "cat")
    assert storage.find(["cat"]) == {}
    assert len(objects("broken")) == 2
    assert {path: path.read_bytes() for path in before} == before
    storage.keep({"cat/output/left-over.bin": run.manifest})

    storage.move(run, "cat")

    assert objects("broken") == {f"cat/{path.relative_to('run')}" for path in before}
    assert not run.path.exists()
    assert storage.find(["cat", "dog"]).keys() == {"cat"}
    storage.fetch("cat", RunFolder(Path("back")))
    assert {path: Path("back", path.relative_to("run")).read_bytes() for path in before} == before


def test_a_file_that_did_not_arrive_whole_is_no_run(
    objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, run = Storage("s3://bucket/short"), write_run(Path("run"))
    put = storage._files.put

    def put_less(here: list[str], there: list[str]) -> None:
        put(here, there)
        storage._files.pipe_file(there[0], b"")

    monkeypatch.setattr(storage._files, "put", put_less)

    with pytest.raises(SetupError, match="did not arrive whole"):
        storage.move(run, "cat")

    assert storage.find(["cat"]) == {}
    assert all(run.lora(phase).exists() for phase in Phase)


@pytest.mark.parametrize(
    ("address", "code", "words"),
    [
        ("s3://nowhere/x", 3, "s3://nowhere/x: The specified bucket does not exist"),
        ("gs://bucket/x", 3, "gs://bucket/x: gcsfs is missing"),
        ("sthree://bucket/x", 4, "--output sthree://bucket/x: Protocol not known: sthree"),
    ],
)
def test_a_place_that_cannot_be_had_is_told_before_anything_is_trained(
    glance: Glance,
    simpletuner: FakeSimpleTuner,
    objects: Objects,
    address: str,
    code: int,
    words: str,
) -> None:
    write_pairs(1)

    refused = glance(*BATCH[:-1], "--output", address)

    assert (refused.code, words in refused.err) == (code, True), refused.err
    assert re.search(r"^  hint: ", refused.err, re.MULTILINE)
    assert simpletuner.starts == []


def test_lines_that_move_nothing_are_not_printed(glance: Glance, objects: Objects) -> None:
    write_pairs(1)

    refused = glance("batch", "plan", *BATCH[2:], "--output", "s3://bucket/plan")

    assert (refused.code, "what a line trains is not moved there" in refused.out) == (2, True)


def test_a_folder_that_others_may_write_to_is_not_trained_in(
    glance: Glance, simpletuner: FakeSimpleTuner, objects: Objects, tmp_path: Path
) -> None:
    write_pairs(1)
    scratch = tmp_path / f"glance-{os.getuid()}"
    scratch.mkdir()
    scratch.chmod(0o777)

    done = glance(*BATCH, "--output", "s3://bucket/open")

    assert (done.code, simpletuner.starts) == (5, [])
    assert "others may write to it" in json.dumps(done.document)
