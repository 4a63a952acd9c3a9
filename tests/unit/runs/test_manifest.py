"""glance.json: written and read back, refused when damaged; and which run is the newest."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from glance.core.device import Device
from glance.core.errors import RunError
from glance.core.phase import Phase
from glance.runs.folder import RunFolder
from glance.runs.manifest import (
    Attempt,
    LoraRecord,
    Manifest,
    PhaseState,
    SampleRecord,
    find_newest_run,
    load_manifest,
    record_schedule,
)
from glance.runs.settings import TrainSettings, resolve_train_settings
from glance.schedule.lists import resolve_schedule

OLD = Path(__file__).parents[2] / "fixtures/older/before-distillation.json"
RESTART = "train again in another --run folder, or remove this one"
TEN, ELEVEN, NOON = (datetime(2026, 5, 1, hour, tzinfo=UTC) for hour in (10, 11, 12))


def make_manifest(**overrides: Any) -> Manifest:
    return Manifest(
        created=TEN,
        sample=SampleRecord(
            image="data/cat.png", caption="data/cat.txt", width=64, height=64, sha256="0" * 64
        ),
        settings=resolve_train_settings(device=Device.CPU, overrides=overrides),
        base_model="acme/tiny",
        schedule=record_schedule(resolve_schedule("guide")),
        versions={"simpletuner": "4.10.1"},
    )


def finished(ended: datetime | None) -> Manifest:
    manifest = make_manifest()
    lora = LoraRecord(path="output/x.safetensors", sha256="0" * 64, bytes=8, rank=32)
    attempts = (Attempt(started=TEN, ended=ended, returncode=0),)
    for phase in Phase:
        manifest = manifest.with_phase(phase, state=PhaseState.DONE, attempts=attempts, lora=lora)
    return manifest.with_pair_id(dict.fromkeys(Phase, "0"))


def save(manifest: Manifest, name: str = "cat") -> RunFolder:
    run = RunFolder(Path("runs") / name)
    manifest.save(run)
    return run


def refusal(run: RunFolder) -> tuple[str, str | None]:
    with pytest.raises(RunError) as caught:
        load_manifest(run)
    [problem] = caught.value.problems
    return problem.message, problem.hint


@pytest.mark.parametrize(
    "manifest",
    [
        make_manifest(),
        make_manifest(noise_offset=0.5, validation_disable=False, optimizer="füchsin"),
        finished(NOON),
        finished(None),
        make_manifest().model_copy(
            update={"schedule": record_schedule(resolve_schedule("guide", fast_timesteps="500,20"))}
        ),
    ],
    ids=["new", "overrides", "finished", "no end", "own lists"],
)
def test_manifest_survives_writing_and_reading(manifest: Manifest) -> None:
    assert load_manifest(save(manifest)) == manifest


def test_a_run_from_before_distillation_is_read_and_its_pair_keeps_its_id() -> None:
    run = RunFolder(Path("runs/cat"))
    run.path.mkdir(parents=True)
    shutil.copyfile(OLD, run.manifest)

    manifest = load_manifest(run)

    assert (manifest.settings.teacher, manifest.settings.alpha) == (None, 128)
    assert manifest.pair_id == "5fe2145d8e706ace"  # as the glance that wrote it said


@pytest.mark.parametrize("changes", [{}, {"batch_size": 4}, {"layers": "blocks"}, {"seed": 2}])
def test_a_pairs_id_is_that_of_its_tensors(changes: dict[str, Any]) -> None:
    manifest = make_manifest()
    settings = TrainSettings.model_validate({**manifest.settings.model_dump(), **changes})
    other = manifest.model_copy(update={"settings": settings})
    same, another = ({Phase.SLOW: "a", Phase.FAST: end} for end in "bc")

    assert manifest.with_pair_id(same).pair_id == other.with_pair_id(same).pair_id
    assert manifest.with_pair_id(same).pair_id != manifest.with_pair_id(another).pair_id


def test_the_same_tensors_for_other_steps_are_another_pair_and_trained_further_none() -> None:
    schedule = record_schedule(resolve_schedule("paper"))
    manifest, data = make_manifest(), dict.fromkeys(Phase, "a")

    other = manifest.model_copy(update={"schedule": schedule})

    assert manifest.with_pair_id(data).pair_id != other.with_pair_id(data).pair_id
    trained = finished(NOON)
    assert trained.pair_id is not None
    assert trained.with_phase(Phase.FAST, state=PhaseState.TRAINING).pair_id is None


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 10_000])
def test_manifest_that_is_no_json_is_damaged(content: bytes) -> None:
    run = save(make_manifest())
    run.manifest.write_bytes(content)
    message, hint = refusal(run)
    assert message.startswith("runs/cat/glance.json: it is damaged (")
    assert hint == RESTART


@pytest.mark.parametrize(
    ("content", "version"), [("{}", None), ("[]", None), ('{"schema_version": 2}', 2)]
)
def test_manifest_of_another_version_is_refused(content: str, version: int | None) -> None:
    run = save(make_manifest())
    run.manifest.write_text(content)
    assert refusal(run) == (
        f"runs/cat/glance.json: schema version {version}, this glance reads 1",
        "use the glance that wrote it, or train again in another --run folder",
    )


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        ("sample", None, "imported: null: there is no sample"),
        ("colour", "red", 'colour: "red": nothing of that name is known here'),
        ("created", "2026-05-01T10:00:00", 'created: "2026-05-01T10:00:00": it cannot be used'),
        ("phases", {}, "phases: it must hold at least 2"),
        ("settings.rank", 0, "settings.rank: 0: it must be at least 1"),
        ("schedule.slow", {}, "'timesteps'"),
        ("schedule.slow.timesteps", [5.0], "fast[0]: 886.7053 is not below slow[0] = 5"),
        ("schedule.fast.timesteps", [], "fast: the list is empty"),
    ],
)
def test_manifest_with_a_damaged_value_is_refused(place: str, value: Any, reason: str) -> None:
    run = save(make_manifest())
    document = json.loads(run.manifest.read_text(encoding="utf-8"))
    *path, last = place.split(".")
    inner = document
    for key in path:
        inner = inner[key]
    inner[last] = value
    run.manifest.write_text(json.dumps(document))
    message, hint = refusal(run)
    assert message.startswith(f"runs/cat/glance.json: it is damaged ({reason}")
    assert hint == RESTART


def test_newest_run_is_the_finished_one_that_ended_last() -> None:
    assert find_newest_run() is None
    save(finished(None), "created-at-ten")
    save(finished(NOON), "b-noon")
    save(finished(TEN), "a-ten")
    save(finished(ELEVEN), "c-eleven")
    assert find_newest_run() == RunFolder(Path("runs/b-noon"))
    for state in PhaseState:
        if state is not PhaseState.DONE:
            save(finished(NOON).with_phase(Phase.FAST, state=state), "b-noon")
            assert find_newest_run() == RunFolder(Path("runs/c-eleven"))


@pytest.mark.parametrize("damage", ["", "{}", '{"schema_version": 1, "phases": {}}'])
def test_damaged_neighbour_does_not_hide_a_sound_run(damage: str) -> None:
    save(finished(NOON), "damaged").manifest.write_text(damage)
    sound = save(finished(TEN), "sound")
    assert find_newest_run() == sound
