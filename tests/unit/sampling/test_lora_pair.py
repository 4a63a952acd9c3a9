"""Which LoRAs are used, and what they and their surroundings say."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from fakes.pairs import glance_header, write_lora, write_pair, write_run
from fakes.plans import plan

from glance.core.errors import LoraError, RunError, SetupError, UsageError
from glance.core.phase import Phase
from glance.runs.manifest import PhaseState, load_manifest
from glance.sampling.generate import describe_workflow
from glance.sampling.lora_pair import LoraPair, find_pair
from glance.sampling.request import InferRequest
from glance.schedule.lists import PRESETS


def pair_of(**request: Any) -> LoraPair:
    return find_pair(InferRequest(model="acme/tiny", **request))


def test_a_run_brings_its_schedule_and_its_resolution() -> None:
    write_run(Path("runs/cat"))

    pair = find_pair(InferRequest())

    assert pair.schedule == PRESETS["guide"].schedule
    assert (pair.side, pair.base.location) == (64, "acme/tiny")
    assert pair.notes == ("using the newest finished run, runs/cat",)


def test_two_files_bring_the_schedule_of_their_headers() -> None:
    pair = pair_of(**write_pair(Path()))

    assert pair.schedule is not None
    assert pair.schedule.to_json() == PRESETS["guide"].schedule.to_json()
    assert pair.notes == ()


def test_files_that_say_nothing_are_taken_at_scale_1_along_the_guides_list_and_it_is_said() -> None:
    paths = [str(write_lora(Path(f"{name}.safetensors"))) for name in "ab"]

    pair = pair_of(slow_lora=paths[0], fast_lora=paths[1])

    first, second, third = pair.notes
    assert "a.safetensors says nothing of alpha" in first
    assert "--slow-scale alpha/rank" in first
    assert "--fast-scale alpha/rank" in second
    assert "say others with --schedule" in third
    assert pair.schedule is None


def test_checkpoints_of_a_run_take_its_schedule() -> None:
    run = write_run(Path("runs/cat"))
    given = {}
    for phase in Phase:
        folder = run.output(phase) / "checkpoint-5"
        given[f"{phase}_lora"] = str(write_lora(folder / "pytorch_lora_weights.safetensors").parent)

    assert pair_of(**given).schedule == PRESETS["guide"].schedule


def test_a_run_is_taken_by_its_folder_with_its_model_which_two_runs_have_not() -> None:
    run = write_run(Path("runs/cat"))
    write_run(Path("runs/dog"))

    pair = find_pair(InferRequest(slow_lora="runs/cat", fast_lora="runs/cat"))
    mixed = find_pair(InferRequest(slow_lora="runs/cat", fast_lora="runs/dog"))

    assert pair.loras == {phase: run.lora(phase) for phase in Phase}
    assert (pair.base.location, pair.side) == ("acme/tiny", 64)
    assert pair.notes == ("the model is that of the LoRAs' run, runs/cat",)
    assert pair_of(slow_lora="runs/cat", fast_lora="runs/cat").notes == ()
    assert mixed.base.location == "black-forest-labs/FLUX.1-dev"


def test_a_strength_that_lies_beside_a_file_is_said() -> None:
    for name in "ab":
        write_lora(Path(f"{name}/adapter_model.safetensors"))
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 8}
        Path(f"{name}/adapter_config.json").write_text(json.dumps(config))

    pair = pair_of(slow_lora="a", fast_lora="b", loras=(Phase.SLOW,))

    assert pair.notes[0] == (
        "a/adapter_model.safetensors is taken at scale 4: alpha is in adapter_config.json beside it"
    )
    assert len(pair.notes) == 2, "the lists are open, the strength is not"


@pytest.mark.parametrize(
    ("header", "strength"),
    [({}, 0.5), ({"lora_alpha": "8"}, 2.0), (glance_header(Phase.SLOW), 0.5)],
    ids=["nothing said", "header", "glance"],
)
def test_the_workflow_is_as_strong_as_its_image(header: dict[str, str], strength: float) -> None:
    """ComfyUI reads alpha from tensors alone: what only we read goes into its strength."""
    path = write_lora(Path("x.safetensors"), {"format": "pt", **header})
    asked = {"loras": (Phase.SLOW,), "slow_scale": 0.5, "schedule": "guide"}
    planned = plan(slow_lora=str(path), model="acme/tiny", **asked)

    nodes = describe_workflow(planned, planned.images[0]).to_api().values()

    found = [node["inputs"].get("strength_model") for node in nodes]
    assert [one for one in found if one is not None] == [strength]


def test_swapped_files_are_noticed() -> None:
    files = write_pair(Path())

    with pytest.raises(LoraError, match=r"slow\.safetensors is the slow LoRA of its pair"):
        pair_of(slow_lora=files["fast_lora"], fast_lora=files["slow_lora"])


def test_lists_that_do_not_go_together_are_no_pair() -> None:
    slow = write_lora(Path("s.safetensors"), glance_header(Phase.SLOW))
    fast = write_lora(
        Path("f.safetensors"), glance_header(Phase.FAST, **{"glance.timesteps": "[950.0]"})
    )

    with pytest.raises(LoraError, match="hold no schedule"):
        pair_of(slow_lora=str(slow), fast_lora=str(fast))


def test_a_lora_of_another_family_is_warned_of() -> None:
    files = write_pair(Path())
    for path in files.values():
        header = glance_header(Phase(Path(path).stem), **{"glance.family": "sd3"})
        write_lora(Path(path), header)

    pair = pair_of(**files, family="flux")

    assert "slow.safetensors was trained for sd3, the model is flux" in pair.notes


@pytest.mark.parametrize("phase", Phase)
def test_one_lora_alone_brings_the_preset_that_it_was_trained_on(phase: Phase) -> None:
    path = write_lora(Path("x.safetensors"), glance_header(phase, "paper"))

    pair = pair_of(**{f"{phase}_lora": str(path)}, loras=(phase,))

    assert pair.schedule is PRESETS["paper"].schedule
    assert (set(pair.loras), pair.notes) == ({phase}, ())


def test_one_lora_of_a_list_of_its_own_leaves_the_other_phase_open_and_it_is_said() -> None:
    header = glance_header(Phase.SLOW, **{"glance.timesteps": "[990.0]"})
    path = write_lora(Path("x.safetensors"), header)

    pair = pair_of(slow_lora=str(path), loras=(Phase.SLOW,))

    assert pair.schedule is None
    assert "do not say which timesteps both phases were trained on" in pair.notes[0]


def test_a_missing_half_is_asked_for() -> None:
    with pytest.raises(UsageError) as caught:
        pair_of(slow_lora=write_pair(Path())["slow_lora"])

    assert caught.value.problems[0].hint == "give both LoRAs, or say --slow-only"


def test_a_model_alone_is_enough_without_loras_and_a_fast_lora_for_saved_latents() -> None:
    alone = pair_of(loras=())
    fast = pair_of(
        fast_lora=write_pair(Path())["fast_lora"], init_latents=Path("x.latents.safetensors")
    )

    assert (alone.loras, alone.base.family.name) == ({}, "flux")
    assert (set(fast.loras), fast.notes) == ({Phase.FAST}, ())


def test_an_unfinished_phase_that_is_not_used_is_no_obstacle() -> None:
    run = write_run(Path("runs/cat"))
    load_manifest(run).with_phase(Phase.FAST, state=PhaseState.PENDING).save(run)
    shutil.rmtree(run.output(Phase.FAST))

    with pytest.raises(RunError, match="fast is pending"):
        find_pair(InferRequest(run=run.path))
    assert set(find_pair(InferRequest(run=run.path, loras=(Phase.SLOW,))).loras) == {Phase.SLOW}


def test_what_is_no_file_may_be_on_the_hub() -> None:
    with pytest.raises(SetupError, match="HF_HUB_OFFLINE forbids fetching it"):
        pair_of(slow_lora="acme/pair:slow.safetensors", fast_lora="acme/pair:fast.safetensors")


def test_a_pickle_is_not_opened_and_the_problems_of_both_files_come_at_once() -> None:
    Path("a.pt").write_bytes(b"\x80\x04.")
    Path("b.safetensors").touch()

    with pytest.raises(LoraError, match="may run code") as caught:
        pair_of(slow_lora="a.pt", fast_lora="b.safetensors")

    assert len(caught.value.problems) == 2
