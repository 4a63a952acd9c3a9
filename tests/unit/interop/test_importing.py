"""LoRAs of others: what becomes a run, with which words, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.pairs import LAYER, glance_header, write_lora, write_run
from safetensors.numpy import save_file

from glance.core.errors import GlanceError, InputError, LoraError, RunError
from glance.core.files import find_place
from glance.core.phase import Phase
from glance.interop.importing import ImportPlan, plan_import, run_import
from glance.interop.request import ImportRequest
from glance.models.lora.file import read_lora
from glance.runs.folder import RunFolder
from glance.runs.manifest import Manifest, load_manifest

SLOW, FAST = "slow.safetensors", "fast.safetensors"
LISTS = {
    Phase.SLOW: "1000,979.1915,957.5157,934.9171,911.3354",
    Phase.FAST: "886.7053,745.0728,562.9505,320.0802,20.0",
}


RUN = RunFolder(Path("r"))
BOTH = {"slow_lora": SLOW, "fast_lora": FAST}
HALVES = {f"{LAYER}.lora_A.weight", f"{LAYER}.lora_B.weight"}


def plan_pair(**request: Any) -> ImportPlan:
    usual = {**BOTH, "model": "acme/tiny", "schedule": "seed", "run": RUN.path}
    return plan_import(ImportRequest(**{**usual, **request}))


def import_pair(**request: Any) -> Manifest:
    """Import into RUN; return its manifest."""
    run_import(plan_pair(**request))
    return load_manifest(RUN)


@pytest.fixture(autouse=True)
def _both() -> None:
    write_both()


def write_both(metadata: dict[str, str] | None = None) -> None:
    for number, name in enumerate((SLOW, FAST), 1):
        write_lora(Path(name), metadata, fill=float(number))


def refusal(kind: type[GlanceError] = InputError, **request: Any) -> str:
    with pytest.raises(kind) as caught:
        plan_import(ImportRequest(**{**BOTH, **request}))
    return "\n".join(f"{one.message} / {one.hint}" for one in caught.value.problems)


def write_pairs(
    *stems: str,
    down: str = "lora_A",
    up: str = "lora_B",
    ranks: tuple[int, ...] = (2, 2),
    more: dict[str, Any] | None = None,
) -> None:
    """Write both LoRAs with a pair a stem, in anybody's spelling."""
    for number, name in enumerate((SLOW, FAST), 1):
        tensors = dict(more or {})
        for stem, rank in zip(stems, ranks, strict=False):
            tensors[f"{stem}.{down}.weight"] = np.full((rank, 8), number, np.float32)
            tensors[f"{stem}.{up}.weight"] = np.ones((8, rank), np.float32)
        save_file(tensors, name)


def up(phase: Phase = Phase.SLOW) -> float:
    return float(read_lora(RUN.lora(phase)).tensors[f"{LAYER}.lora_B.weight"].to_float()[0, 0])


def test_an_unknown_alpha_is_asked_for() -> None:
    told = refusal()

    assert "slow.safetensors says nothing of alpha" in told
    assert "fast.safetensors says nothing of alpha" in told
    assert "4 x rank, 8, which its own inference loses. --alpha 2 takes the file as it is" in told
    write_pairs(LAYER, down="lora.down", up="lora.up")
    assert "as the method's official code spells it" in refusal()


@pytest.mark.parametrize(("alpha", "expected"), [(8, 4.0), (2, 1.0), (1, 0.5)])
def test_the_users_alpha_is_multiplied_in(alpha: float, expected: float) -> None:
    manifest = import_pair(alpha=alpha)

    assert up() == expected
    assert read_lora(RUN.lora(Phase.SLOW)).metadata["glance.folded_scale"] == str(alpha / 2)
    assert manifest.settings.overrides == {"lora_alpha": alpha}


def test_the_files_own_alpha_is_taken_and_another_is_refused() -> None:
    write_both({"lora_adapter_metadata": '{"transformer.lora_alpha": 8}'})

    import_pair()

    assert up() == 4.0
    assert "says alpha 8 itself / drop --alpha" in refusal(alpha=2)


def test_what_peft_wrote_beside_the_files_is_multiplied_in() -> None:
    for number, phase in enumerate(Phase, 1):
        folder = Path(f"lora/peft_{phase}")
        write_lora(folder / "adapter_model.safetensors", fill=float(number))
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "use_rslora": phase is Phase.FAST}
        (folder / "adapter_config.json").write_text(json.dumps(config))
    given = {"slow_lora": "lora/peft_slow", "fast_lora": "lora/peft_fast"}

    manifest = import_pair(**given)

    assert (up(), up(Phase.FAST)) == (4.0, pytest.approx(2 * 8 / 2**0.5))
    assert manifest.settings.overrides == {}, "the two have no alpha in common"
    folded = "lora_B times 4: alpha is in adapter_config.json beside it"
    assert manifest.imported is not None
    assert folded in manifest.imported.folded.values()
    plan = plan_pair(**given, alpha=2, run=Path("s"))
    assert [lora.reason for lora in plan.loras.values()] == ["--alpha 2"] * 2


def test_a_text_encoders_keys_are_left_out_when_that_is_asked() -> None:
    write_pairs(LAYER, "text_encoder.x")

    told = refusal(alpha=4)
    plan = plan_pair(alpha=4, drops_text=True)
    run_import(plan)

    assert "2 of its keys are a text encoder's, first text_encoder.x.lora_A.weight" in told
    assert "glance import --slow-lora A --fast-lora B --drop-text-encoder" in told
    assert set(read_lora(RUN.lora(Phase.SLOW)).tensors) == HALVES
    assert up(Phase.FAST) == 2.0
    imported = load_manifest(RUN).imported
    assert imported is not None
    assert imported.folded[Phase.SLOW].endswith("; 2 keys of a text encoder left out")
    assert [one["dropped"] for one in plan.to_json()["loras"].values()] == [2, 2]
    assert len(read_lora(Path(SLOW)).tensors) == 4, "the user's file stays"


def test_there_may_be_nothing_to_leave_out_or_nothing_else() -> None:
    write_both({"lora_alpha": "4"})

    plan = plan_pair(drops_text=True)

    assert "--drop-text-encoder: the LoRAs have no keys of one" in plan.warnings[-1].message
    write_pairs(more={"lora_te1_x.lora_down.weight": np.ones((2, 8), np.float32)})
    assert "it holds no LoRA pair" in refusal(drops_text=True)


def test_alpha_tensors_may_differ_from_layer_to_layer() -> None:
    first, second = (f"{LAYER[:-1]}{letter}" for letter in "qk")
    alphas = {first: 4.0, second: 2.0}
    tensors = {f"{layer}.alpha": np.array(own, np.float32) for layer, own in alphas.items()}
    write_pairs(first, second, more=tensors)

    import_pair()

    lora = read_lora(RUN.lora(Phase.SLOW))
    scales = {key: value.to_float()[0, 0] for key, value in lora.tensors.items() if "_B" in key}
    assert scales == {f"{first}.lora_B.weight": 2.0, f"{second}.lora_B.weight": 1.0}


@pytest.mark.parametrize("as_run", [False, True], ids=["files", "a run's folder"])
def test_a_pair_that_glance_finished_is_taken_byte_by_byte(as_run: bool) -> None:
    made = write_run(Path("runs/demo"))
    write_lora(made.lora(Phase.SLOW), glance_header(Phase.SLOW), fill=3.0)
    given = {f"{phase}_lora": str(made.path if as_run else made.lora(phase)) for phase in Phase}

    manifest = import_pair(**given, schedule=None)

    assert RUN.lora(Phase.SLOW).read_bytes() == made.lora(Phase.SLOW).read_bytes()
    assert manifest.schedule.name == "guide"


def write_trained(**options: Any) -> dict[str, str]:
    """Leave both LoRAs where SimpleTuner does, and what it writes beside; return the flags."""
    for number, phase in enumerate(Phase, 1):
        output = Path(f"project/output/{phase}")
        write_lora(output / "pytorch_lora_weights.safetensors", fill=float(number))
        content = {"lora_alpha": 2, "flow_custom_timesteps": LISTS[phase], **options}
        (output / "simpletuner_config.json").write_text(json.dumps(content))
    return {f"{phase}_lora": f"project/output/{phase}" for phase in Phase}


def test_what_simpletuner_recorded_beside_the_loras_is_taken() -> None:
    given = write_trained(lora_alpha=8, learning_rate=1e-5, max_train_steps=7, seed=0)

    manifest = import_pair(**given, schedule=None)

    assert up() == 4.0
    assert (manifest.settings.learning_rate, manifest.settings.steps) == (1e-5, 7)
    assert manifest.schedule.name == "guide"
    assert manifest.imported is not None
    assert "seed" in manifest.imported.unknown


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_train_steps", [1]),
        ("learning_rate", float("nan")),
        ("learning_rate", True),
        ("seed", -1),
        ("model_family", ["flux"]),
        ("pretrained_model_name_or_path", "x" * 5000),
        ("optimizer", {"a": 1}),
    ],
)
def test_recorded_values_of_every_kind_are_taken_or_left_out(option: str, value: object) -> None:
    assert import_pair(**write_trained(**{option: value})).is_finished


@pytest.mark.parametrize("value", [{"a": 1}, "soon", [0.5, "x"]])
def test_a_recorded_list_that_is_none_is_refused(value: object) -> None:
    given = write_trained(flow_custom_timesteps=value)

    assert "flow_custom_timesteps of project/output/slow" in refusal(**given)


def test_swapped_loras_and_the_same_one_twice_are_refused() -> None:
    given = write_trained()
    swapped = {"slow_lora": given["fast_lora"], "fast_lora": given["slow_lora"]}
    assert "was trained on less noise" in refusal(LoraError, **swapped)
    write_lora(Path(SLOW), glance_header(Phase.FAST), fill=1.0)
    write_lora(Path(FAST), glance_header(Phase.SLOW), fill=2.0)

    told = refusal(LoraError)

    assert "slow.safetensors is the fast LoRA of its pair / swap" in told
    twice = {**given, "fast_lora": given["slow_lora"]}
    assert "are the same file" in refusal(LoraError, **twice)


def test_nothing_is_overwritten_and_nothing_is_left_of_a_failure() -> None:
    plan = plan_pair(alpha=2)
    run_import(plan)
    Path("mine").mkdir()
    Path("mine/file").touch()

    with pytest.raises(RunError, match="r is a run already: nothing is overwritten"):
        import_pair(alpha=2)
    with pytest.raises(RunError, match="mine is there already"):
        import_pair(alpha=2, run=Path("mine"))
    with pytest.raises(RunError, match="is there by now"):
        run_import(plan)
    assert {path.name for path in Path().iterdir()} == {SLOW, FAST, "r", "mine"}


def test_a_picture_and_its_caption_can_be_given(pair: Path) -> None:
    import_pair(alpha=2, image=Path(pair.name))

    assert (RUN.data / "cat.txt").read_text() == "a grey circle\n"


def write_model(layers: tuple[str, ...]) -> Path:
    """A folder of which only the names of the transformer's layers are needed."""
    folder = Path("model")
    (folder / "transformer").mkdir(parents=True)
    parts: dict[str, Any] = {"_class_name": "FluxPipeline", "transformer": ["diffusers", "F"]}
    (folder / "model_index.json").write_text(json.dumps(parts))
    weights = {f"{layer}.weight": np.zeros((8, 8), np.float32) for layer in layers}
    save_file(weights, folder / "transformer/diffusion_pytorch_model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("down", "up_", "stem"),
    [
        ("lora_down", "lora_up", "lora_unet_transformer_blocks_0_attn_to_q"),
        ("lora_A", "lora_B", "diffusion_model.transformer_blocks.0.attn.to_q"),
        ("lora_A.default", "lora_B.default", "base_model.model.transformer_blocks.0.attn.to_q"),
        ("lora.down", "lora.up", LAYER),
    ],
    ids=["kohya", "ComfyUI", "PEFT", "official"],
)
def test_foreign_keys_become_diffusers(down: str, up_: str, stem: str) -> None:
    model = write_model((LAYER.removeprefix("transformer."),))
    write_pairs(stem, down=down, up=up_)

    import_pair(alpha=2, model=str(model))

    assert set(read_lora(RUN.lora(Phase.SLOW)).tensors) == HALVES


def test_layers_that_cannot_be_placed_are_named_with_a_way_to_use_them() -> None:
    model = write_model(("transformer_blocks.0.attn.to_k",))
    with pytest.raises(InputError, match=r"has no layer transformer_blocks\.0\.attn\.to_q"):
        import_pair(alpha=2, model=str(model))

    write_pairs("diffusion_model.double_blocks.0.img_attn.qkv")
    with pytest.raises(InputError, match="original layout") as caught:
        import_pair(alpha=2)
    assert "glance infer --slow-lora" in str(caught.value.problems[0].hint)

    write_pairs(f"{LAYER[:-1]}q", f"{LAYER[:-1]}k", ranks=(2, 4))
    with pytest.raises(InputError, match="ranks 2, 4"):
        import_pair(alpha=2)


def test_a_model_that_lies_above_the_loras_is_no_name_on_the_hub() -> None:
    folder = write_model((LAYER.removeprefix("transformer."),))
    Path("project/models").mkdir(parents=True)
    folder.rename("project/models/flux")
    given = write_trained(pretrained_model_name_or_path="models/flux")

    plan = plan_pair(**given, model=None)

    assert find_place(plan.settings.model, RUN.path) == Path("project/models/flux").resolve()


def test_a_model_that_no_file_names_is_warned_of() -> None:
    plan = plan_pair(alpha=2, model=None, family="flux")

    assert "FLUX.1-dev is taken" in plan.warnings[0].message
