"""Which file is meant by a LoRA: what is on this disk is never looked for on the Hub."""

import os
from pathlib import Path

import pytest
from fakes.pairs import glance_header, write_lora, write_run

from glance.core.errors import GlanceError, LoraError, RunError
from glance.core.phase import Phase
from glance.runs.locate import locate_lora
from glance.runs.manifest import PhaseState, load_manifest

SLOW, FAST = Phase


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub is not asked by any of these."""

    def ask(*_: object, **__: object) -> None:
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", ask)


def refusal(name: str, phase: Phase | None = SLOW) -> tuple[type[GlanceError], str]:
    with pytest.raises(GlanceError) as caught:
        locate_lora(name, phase)
    (problem,) = caught.value.problems
    return type(caught.value), f"{problem.message} / {problem.hint}"


@pytest.mark.parametrize(
    "name",
    ["pytorch_lora_weights.safetensors", "adapter_model.safetensors", "my style.safetensors",
     "X.SAFETENSORS"],
)  # fmt: skip
@pytest.mark.parametrize("given", ["lora/peft_slow", "lora/peft_slow/", "./lora/peft_slow"])
def test_a_folder_that_holds_one_lora_is_that_lora(given: str, name: str) -> None:
    path = write_lora(Path("lora/peft_slow") / name)
    Path("lora/peft_slow/.~lock.safetensors").write_bytes(b"")
    Path("lora/peft_slow/._x.safetensors").write_bytes(b"")

    assert locate_lora(given) == path


def test_beside_other_tensors_the_lora_is_found() -> None:
    path = write_lora(Path("lora/x/style.safetensors"))
    Path("lora/x/optimizer.safetensors").write_bytes(b"\x02" + bytes(7) + b"{}")

    assert locate_lora("lora/x") == path


def test_of_several_the_one_of_the_phase_is_taken_by_its_header() -> None:
    for phase in Phase:
        write_lora(Path(f"loras/cat-{phase}.safetensors"), glance_header(phase))

    assert locate_lora("loras", FAST) == Path("loras/cat-fast.safetensors")
    assert "loras holds 2 LoRAs: cat-fast.safetensors, cat-slow" in refusal("loras", None)[1]


def test_several_loras_are_listed_and_one_is_to_be_named() -> None:
    for number in range(7):
        write_lora(Path(f"my/loras/{number}.safetensors"))

    kind, told = refusal("my/loras")

    assert kind is LoraError
    assert told == (
        "my/loras holds 7 LoRAs: 0.safetensors, 1.safetensors, 2.safetensors, 3.safetensors, "
        "4.safetensors and 2 more / give one: my/loras/0.safetensors"
    )


@pytest.mark.parametrize(
    ("file", "told"),
    [
        (None, "my/lora holds no LoRA / give a .safetensors file"),
        ("adapter_model.bin", "holds no .safetensors file but adapter_model.bin, which may run"),
        ("model_index.json", "my/lora holds a base model, no LoRA"),
        ("x.safetensors.part", "my/lora holds no LoRA"),
        ("cp-5/adapter_model.safetensors", "there are some below it: my/lora/cp-5"),
    ],
)
def test_a_folder_without_one_says_what_it_is(file: str | None, told: str) -> None:
    Path("my/lora/cp-5").mkdir(parents=True)
    if file is not None:
        Path("my/lora", file).touch()

    assert told in refusal("my/lora")[1]


def test_of_a_run_it_is_the_phases_that_is_finished() -> None:
    run = write_run(Path("runs/demo"))
    assert [locate_lora("runs/demo", phase) for phase in Phase] == [run.lora(p) for p in Phase]
    both = "runs/demo is a run, which has two LoRAs / give one: runs/demo/output/glance-s"
    assert both in refusal("runs/demo", None)[1]
    load_manifest(run).with_phase(SLOW, state=PhaseState.STOPPED).save(run)

    kind, told = refusal("runs/demo", SLOW)

    assert kind is RunError
    assert "run runs/demo is not finished: slow is stopped" in told
    assert locate_lora("runs/demo", FAST) == run.lora(FAST)


def test_a_link_to_nothing_is_no_name_on_the_hub() -> None:
    Path("lora").mkdir()
    Path("lora/slow").symlink_to("gone.safetensors")

    assert "lora/slow is a link to gone.safetensors, which is not there" in refusal("lora/slow")[1]


def test_a_cloned_repository_goes_before_the_hubs() -> None:
    path = write_lora(Path("acme/pair/slow.safetensors"))

    assert locate_lora("acme/pair:slow.safetensors") == path
    assert (
        "the folder acme/pair is here, and has no file fast.safetensors"
        in (refusal("acme/pair:fast.safetensors")[1])
    )


def test_a_slip_of_the_pen_is_not_asked_of_a_stranger() -> None:
    write_run(Path("runs/demo"))

    told = refusal("runs/demoo")[1]

    assert told.startswith("LoRA not found: runs/demoo / there is runs/demo; of the Hub: runs/de")
    assert "runs is a folder here, and has none; of the Hub: runs/zzz:" in refusal("runs/zzz")[1]


@pytest.mark.parametrize(
    ("address", "remedy"),
    [
        ("https://huggingface.co/me/cat/blob/main/a/x.safetensors", "say it as me/cat:a/x.saf"),
        ("https://hf.co/me/cat", "say it as me/cat"),
        ("https://civitai.com/api/download/models/1", "download the file, and give that"),
    ],
)
def test_an_address_is_no_file(address: str, remedy: str) -> None:
    assert f"{address} is an address, no file / {remedy}" in refusal(address)[1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_no_name_on_the_hub() -> None:
    write_lora(Path("lora/x/a.safetensors"))
    Path("lora").chmod(0)
    try:
        assert "lora/x cannot be read: Permission denied" in refusal("lora/x")[1]
    finally:
        Path("lora").chmod(0o755)
