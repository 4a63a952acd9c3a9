"""Configs and LoRAs of others: what becomes a run, with which words, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.guide import LISTS, config, finish, write_guide
from fakes.pairs import LAYER, glance_header, write_lora, write_run
from safetensors.numpy import save_file

from glance.core.errors import GlanceError, InputError, LoraError, RunError, UsageError
from glance.core.phase import Phase
from glance.interop.importing.execute import run_import
from glance.interop.importing.plan import plan_import
from glance.interop.importing.request import ImportRequest, PairImport, TrainingImport
from glance.models.base import recorded_folder
from glance.models.lora.file import read_lora
from glance.runs.folder import RunFolder
from glance.runs.manifest import load_manifest

SLOW, FAST = "slow.safetensors", "fast.safetensors"
LISTED = {"slow_timesteps": LISTS[Phase.SLOW], "fast_timesteps": LISTS[Phase.FAST]}


def import_configs(folder: Path, **request: Any) -> TrainingImport:
    plan = plan_import(ImportRequest(**{"folder": folder, "device": "cpu", **request}))
    assert isinstance(plan, TrainingImport)
    return plan


def import_pair(**request: Any) -> PairImport:
    usual = {"slow_lora": SLOW, "fast_lora": FAST, "model": "acme/tiny", "schedule": "seed"}
    plan = plan_import(ImportRequest(**{**usual, **request}))
    assert isinstance(plan, PairImport)
    return plan


def write_both(metadata: dict[str, str] | None = None) -> None:
    for number, name in enumerate((SLOW, FAST), 1):
        write_lora(Path(name), metadata, fill=float(number))


def said(plan: TrainingImport) -> dict[str, str]:
    return {remark.option: remark.does for remark in plan.remarks}


def refusal(kind: type[GlanceError] = InputError, **request: Any) -> str:
    with pytest.raises(kind) as caught:
        plan_import(ImportRequest(**request))
    return "\n".join(f"{one.message} / {one.hint}" for one in caught.value.problems)


def up(path: Path) -> float:
    return float(read_lora(path).tensors[f"{LAYER}.lora_B.weight"].to_float()[0, 0])


# --- configs that are not trained yet -------------------------------------------------------------


def test_the_guides_folder_becomes_a_run_that_is_ready_to_train() -> None:
    plan = import_configs(write_guide())

    run_import(plan)

    manifest = load_manifest(RunFolder(Path("runs/glance")))
    assert (manifest.settings.steps, manifest.settings.rank) == (60, 32)
    assert manifest.schedule.name == "seed"
    assert Path("runs/glance/data/glance.txt").read_text() == "a grey circle\n"
    assert [path.name for path in Path("runs").iterdir()] == ["glance"]


def test_its_command_line_says_what_is_not_usual() -> None:
    plan = import_configs(write_guide(max_train_steps=30, lora_rank=8, learning_rate="1e-4"))

    assert plan.result == (
        "glance train --image guide/data/glance.png --family flux --model acme/tiny "
        "--run runs/glance --steps 30 --rank 8 --learning-rate 0.0001 --resolution 64 --device cpu"
    )


def test_every_error_of_the_guide_is_explained() -> None:
    plan = import_configs(write_guide())

    assert said(plan)["learning_rate"].startswith("0.0005")
    assert said(plan)["lora_alpha"].startswith("128")
    assert said(plan)["flow_timesteps_mode"] == "round-robin"
    assert said(plan)["seed"] == "1"
    assert {
        *("data backend", "image_dir", "disable_multiline_split", "caption_dropout_probability"),
        *("lora_dropout", "checkpoint_step_interval", "flux_guidance_value"),
        *("mixed_precision", "base_model_precision", "flow_custom_timesteps"),
    } <= set(said(plan))


def test_nothing_is_told_of_what_the_config_says_itself() -> None:
    plan = import_configs(write_guide(learning_rate=1e-4, lora_alpha=128, seed=7, lora_dropout=0))

    assert not {"learning_rate", "lora_alpha", "seed", "lora_dropout"} & set(said(plan))
    assert (plan.training.settings.seed, plan.training.settings.overrides) == (7, {})


def test_further_options_are_kept_with_set() -> None:
    plan = import_configs(
        write_guide(lora_alpha=32, optimizer="prodigy", gradient_checkpointing=True)
    )

    assert plan.training.settings.overrides == {
        "lora_alpha": 32.0,
        "optimizer": "prodigy",
        "gradient_checkpointing": True,
    }
    assert plan.command[-2:] == ("--set", "gradient_checkpointing=true")


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("seed", 0, "no seed"),
        ("checkpointing_steps", 500, "would never write one"),
        ("checkpoint_step_interval", 500, "would never write one"),
        ("train_batch_size", 4, "there is one sample"),
        ("push_to_hub", True, "stays on this machine"),
        ("validation_prompt", "a cat", "--sample-every"),
        ("nonsense", 3, "no such option"),
        ("mixed_precision", "fp16", "--device"),
        ("lycoris_config", "config/multidatabackend.json", "the old project"),
    ],
)
def test_what_is_left_out_is_told_with_its_reason(option: str, value: object, why: str) -> None:
    plan = import_configs(write_guide(**{option: value}))

    (remark,) = [one for one in plan.remarks if one.option == option and one.says]
    assert why in remark.why
    assert option not in plan.training.settings.overrides


def test_simpletuners_own_layout_and_toml_are_found() -> None:
    folder = write_guide()
    for phase in Phase:
        (folder / f"config/glance-{phase}.json").unlink()
        (folder / f"config/{phase}").mkdir()
        content = {key.lstrip("-"): value for key, value in config(phase).items()}
        lines = [f"{key} = {json.dumps(value)}" for key, value in content.items()]
        (folder / f"config/{phase}/config.toml").write_text("\n".join(lines))

    assert import_configs(folder).training.settings.rank == 32


def test_the_config_folder_and_two_named_files_mean_the_same() -> None:
    folder = write_guide()
    named = ImportRequest(
        slow_config=folder / "config/glance-slow.json",
        fast_config=folder / "config/glance-fast.json",
        device="cpu",
    )

    assert import_configs(folder / "config").command == import_configs(folder).command
    assert plan_import(named).result == import_configs(folder).result


def test_all_problems_of_configs_and_data_are_told_at_once() -> None:
    folder = write_guide(slow={"lora_rank": 8, "max_train_steps": "many"}, model_type="full")
    (folder / "data/other.png").write_bytes((folder / "data/glance.png").read_bytes())

    told = refusal(folder=folder)

    assert "lora_rank: 8 in guide/config/glance-slow.json, 32 in" in told
    assert "max_train_steps: many: it must be a whole number" in told
    assert "model_type: full cannot be imported / glance trains LoRAs" in told
    assert "guide/data holds 2 pictures" in told


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ((), "found none"),
        (("glance-slow.json",), "found guide/config/glance-slow.json"),
        (("glance-slow.json", "glance-fast.json", "copy.json"), "copy.json"),
    ],
)
def test_other_than_two_configs_are_refused(names: tuple[str, ...], told: str) -> None:
    folder = write_guide() / "config"
    contents = {"copy.json": (folder / "glance-fast.json").read_text()}
    for path in folder.glob("glance-*.json"):
        contents[path.name] = path.read_text()
        path.unlink()
    for name in names:
        (folder / name).write_text(contents[name])

    assert told in refusal(folder=Path("guide"))


def test_swapped_configs_are_refused() -> None:
    folder = write_guide() / "config"

    told = refusal(slow_config=folder / "glance-fast.json", fast_config=folder / "glance-slow.json")

    assert "swap --slow-config and --fast-config" in told


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("x.env", "export A=1", "a config.env is a shell script"),
        ("x.json", "{", "it is no JSON"),
        ("x.toml", "= 1", "it is no TOML"),
        ("x.json", "[]", "it holds no options"),
        ("none.json", None, "No such file"),
    ],
)
def test_a_config_that_cannot_be_read_is_refused(name: str, content: str | None, told: str) -> None:
    if content is not None:
        Path(name).write_text(content)

    assert told in refusal(slow_config=Path(name), fast_config=Path(name))


def test_a_run_of_glance_is_not_imported() -> None:
    run_import(import_configs(write_guide()))

    assert "its own `glance train` command" in refusal(RunError, folder=Path("runs/glance"))


def test_nothing_is_left_of_a_failure() -> None:
    plan = import_configs(write_guide())
    Path("guide/data/glance.png").write_bytes(b"changed")

    with pytest.raises(InputError):
        run_import(plan)
    assert list(Path("runs").iterdir()) == []


def test_nothing_is_overwritten() -> None:
    folder = write_guide()
    run_import(import_configs(folder))
    Path("mine").mkdir()
    Path("mine/file").touch()

    assert "runs/glance is a run already: nothing is over" in refusal(RunError, folder=folder)
    assert "nothing is overwritten" in refusal(RunError, folder=folder, run=Path("mine"))


def test_the_users_files_stay_as_they_are() -> None:
    folder = write_guide()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    run_import(import_configs(folder))

    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


# --- configs whose LoRAs are trained --------------------------------------------------------------


def test_trained_configs_become_a_finished_run_with_simpletuners_alpha() -> None:
    finish(write_guide(lora_rank=2))

    plan = plan_import(ImportRequest(folder=Path("guide")))
    run_import(plan)

    run = RunFolder(Path("runs/glance"))
    manifest = load_manifest(run)
    assert manifest.is_finished
    assert manifest.sample is not None
    assert up(run.lora(Phase.FAST)) == 2.0  # no lora_alpha: SimpleTuner's is the rank
    assert manifest.imported is not None
    assert "by SimpleTuner's default" in manifest.imported.folded[Phase.SLOW]


def test_what_simpletuner_recorded_goes_before_a_config_that_was_edited_since() -> None:
    finish(
        write_guide(lora_rank=2, lora_alpha=2),
        recorded={"lora_alpha": 8.0, "learning_rate": 1e-5, "max_train_steps": 7},
    )

    plan = plan_import(ImportRequest(folder=Path("guide")))
    run_import(plan)

    manifest = load_manifest(RunFolder(Path("runs/glance")))
    assert up(RunFolder(Path("runs/glance")).lora(Phase.SLOW)) == 4.0
    assert (manifest.settings.learning_rate, manifest.settings.steps) == (1e-5, 7)


def test_retrain_prepares_a_training_all_the_same() -> None:
    finish(write_guide(lora_rank=2))

    assert import_configs(Path("guide"), retrain=True).training.settings.rank == 2


def test_one_finished_lora_of_two_is_told_and_both_are_trained() -> None:
    finish(write_guide(lora_rank=2))
    Path("guide/output/glance-fast/pytorch_lora_weights.safetensors").unlink()

    assert "only the slow LoRA" in import_configs(Path("guide")).warnings[0].message


def test_a_trained_pair_goes_without_a_picture_that_is_not_there() -> None:
    finish(write_guide(lora_rank=2))
    Path("guide/data/glance.png").unlink()

    plan = plan_import(ImportRequest(folder=Path("guide"), run=Path("r")))
    run_import(plan)

    assert "holds no picture" in plan.warnings[0].message
    assert load_manifest(RunFolder(Path("r"))).sample is None


# --- pairs from elsewhere -------------------------------------------------------------------------


def test_an_unknown_alpha_is_asked_for() -> None:
    write_both()

    told = refusal(slow_lora=SLOW, fast_lora=FAST)

    assert "slow.safetensors says nothing of alpha" in told
    assert "fast.safetensors says nothing of alpha" in told
    assert "4 x rank, 8, which its own inference loses. --alpha 2 takes the file as it is" in told


def test_the_official_codes_spelling_is_told_and_not_gone_by() -> None:
    tensors = {
        f"{LAYER}.lora.down.weight": np.ones((2, 8), np.float32),
        f"{LAYER}.lora.up.weight": np.ones((8, 2), np.float32),
    }
    for name in (SLOW, FAST):
        save_file(tensors, name)

    assert "as the method's official code spells it" in refusal(slow_lora=SLOW, fast_lora=FAST)


@pytest.mark.parametrize(("alpha", "expected"), [(8, 4.0), (2, 1.0), (1, 0.5)])
def test_the_users_alpha_is_multiplied_in(alpha: float, expected: float) -> None:
    write_both()

    run_import(import_pair(alpha=alpha, run=Path("r")))

    path = RunFolder(Path("r")).lora(Phase.SLOW)
    assert up(path) == expected
    assert read_lora(path).metadata["glance.folded_scale"] == str(alpha / 2)
    assert load_manifest(RunFolder(Path("r"))).settings.overrides == {"lora_alpha": alpha}


def test_the_files_own_alpha_is_taken_and_another_is_refused() -> None:
    write_both({"lora_adapter_metadata": '{"transformer.lora_alpha": 8}'})

    run_import(import_pair(run=Path("r")))

    assert up(RunFolder(Path("r")).lora(Phase.SLOW)) == 4.0
    assert "says alpha 8 itself / drop --alpha" in refusal(slow_lora=SLOW, fast_lora=FAST, alpha=2)


def test_a_folder_of_loras_is_told_how_it_is_given() -> None:
    write_lora(Path("lora/peft_slow/adapter_model.safetensors"))

    assert "of trained LoRAs: --slow-lora A --fast-lora B" in refusal(folder=Path("lora"))


def test_what_peft_wrote_beside_the_files_is_multiplied_in() -> None:
    for number, phase in enumerate(Phase, 1):
        folder = Path(f"lora/peft_{phase}")
        write_lora(folder / "adapter_model.safetensors", fill=float(number))
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "use_rslora": phase is Phase.FAST}
        (folder / "adapter_config.json").write_text(json.dumps(config))
    given = {"slow_lora": "lora/peft_slow", "fast_lora": "lora/peft_fast"}

    run_import(import_pair(**given, run=Path("r")))

    run = RunFolder(Path("r"))
    assert up(run.lora(Phase.SLOW)) == 4.0
    assert up(run.lora(Phase.FAST)) == pytest.approx(2 * 8 / 2**0.5)
    imported = load_manifest(run).imported
    assert imported is not None
    assert "lora_B times 4: alpha is in adapter_config.json beside it" in imported.folded.values()
    plan = import_pair(**given, alpha=2, run=Path("s"))
    assert [lora.reason for lora in plan.loras.values()] == ["--alpha 2"] * 2


def test_a_run_is_imported_by_its_folder() -> None:
    run = write_run(Path("runs/demo"))
    write_lora(run.lora(Phase.SLOW), glance_header(Phase.SLOW), fill=3.0)

    run_import(import_pair(slow_lora="runs/demo", fast_lora="runs/demo", run=Path("r")))

    copied = RunFolder(Path("r")).lora(Phase.SLOW)
    assert copied.read_bytes() == run.lora(Phase.SLOW).read_bytes()


def write_with_text(name: str, text: str, *, fill: float) -> None:
    tensors = {
        f"{stem}.{half}.weight": np.full(shape, fill, np.float32)
        for stem in (LAYER, text)
        for half, shape in (("lora_A", (2, 8)), ("lora_B", (8, 2)))
    }
    save_file(tensors, name, {"lora_alpha": "4"})


def test_a_text_encoders_keys_are_left_out_when_that_is_asked() -> None:
    write_with_text(SLOW, "text_encoder.x", fill=1.0)
    write_with_text(FAST, "text_encoder_2.x", fill=2.0)

    told = refusal(slow_lora=SLOW, fast_lora=FAST)
    plan = import_pair(drops_text=True, run=Path("r"))
    run_import(plan)

    assert "2 of its keys are a text encoder's, first text_encoder.x.lora_A.weight" in told
    assert "glance import --slow-lora A --fast-lora B --drop-text-encoder" in told
    run = RunFolder(Path("r"))
    assert set(read_lora(run.lora(Phase.SLOW)).tensors) == {
        f"{LAYER}.lora_A.weight",
        f"{LAYER}.lora_B.weight",
    }
    assert up(run.lora(Phase.FAST)) == 4.0
    imported = load_manifest(run).imported
    assert imported is not None
    assert imported.folded[Phase.SLOW].endswith("; 2 keys of a text encoder left out")
    assert [one["dropped"] for one in plan.to_json()["loras"].values()] == [2, 2]
    assert len(read_lora(Path(SLOW)).tensors) == 4, "the user's file stays"


def test_there_may_be_nothing_to_leave_out_or_nothing_else() -> None:
    write_both({"lora_alpha": "4"})

    plan = import_pair(drops_text=True)

    assert "--drop-text-encoder: the LoRAs have no keys of one" in plan.warnings[-1].message
    for number, name in enumerate((SLOW, FAST), 1):
        tensors = {"lora_te1_x.lora_down.weight": np.full((2, 8), number, np.float32)}
        save_file(tensors, name)
    assert "it holds no LoRA pair" in refusal(slow_lora=SLOW, fast_lora=FAST, drops_text=True)


def test_alpha_tensors_may_differ_from_layer_to_layer() -> None:
    first, second = (f"{LAYER[:-1]}{letter}" for letter in "qk")
    for number, name in enumerate((SLOW, FAST), 1):
        tensors: dict[str, Any] = {}
        for alpha, layer in ((4.0, first), (2.0, second)):
            tensors[f"{layer}.lora_A.weight"] = np.full((2, 8), number, np.float32)
            tensors[f"{layer}.lora_B.weight"] = np.ones((8, 2), np.float32)
            tensors[f"{layer}.alpha"] = np.array(alpha, np.float32)
        save_file(tensors, name)

    run_import(import_pair(run=Path("r")))

    lora = read_lora(RunFolder(Path("r")).lora(Phase.SLOW))
    scales = {key: value.to_float()[0, 0] for key, value in lora.tensors.items() if "_B" in key}
    assert scales == {f"{first}.lora_B.weight": 2.0, f"{second}.lora_B.weight": 1.0}


def test_a_pair_that_glance_finished_is_taken_byte_by_byte() -> None:
    for phase, name in ((Phase.SLOW, SLOW), (Phase.FAST, FAST)):
        write_lora(Path(name), glance_header(phase), fill=1.0 + len(name))

    run_import(import_pair(schedule=None, run=Path("r")))

    run = RunFolder(Path("r"))
    assert run.lora(Phase.SLOW).read_bytes() == Path(SLOW).read_bytes()
    assert load_manifest(run).schedule.name == "seed"


def test_swapped_loras_are_refused() -> None:
    write_lora(Path(SLOW), glance_header(Phase.FAST), fill=1.0)
    write_lora(Path(FAST), glance_header(Phase.SLOW), fill=2.0)

    told = refusal(LoraError, slow_lora=SLOW, fast_lora=FAST)

    assert "slow.safetensors is the fast LoRA of its pair / swap" in told


def test_swapped_lists_of_simpletuner_are_refused() -> None:
    finish(write_guide(lora_rank=2))
    for phase, other in ((Phase.SLOW, Phase.FAST), (Phase.FAST, Phase.SLOW)):
        content = {"lora_alpha": 2, "flow_custom_timesteps": LISTS[other]}
        path = Path(f"guide/output/glance-{phase}/simpletuner_config.json")
        path.write_text(json.dumps(content))

    told = refusal(
        LoraError, slow_lora="guide/output/glance-slow", fast_lora="guide/output/glance-fast"
    )

    assert "was trained on less noise" in told


def test_model_and_lists_that_nobody_says_are_asked_for() -> None:
    write_both()

    told = refusal(slow_lora=SLOW, fast_lora=FAST, alpha=2)

    assert "neither file says which model" in told
    assert "do not say which timesteps" in told
    assert "--schedule paper (the official code's for FLUX.1)" in told


def test_a_pair_without_a_picture_says_what_is_not_known() -> None:
    write_both()

    run_import(import_pair(alpha=2))

    manifest = load_manifest(RunFolder(Path("runs/imported")))
    assert manifest.sample is None
    assert manifest.imported is not None
    assert {"steps", "learning_rate", "seed", "device"} <= set(manifest.imported.unknown)
    assert manifest.imported.sources == {Phase.SLOW: SLOW, Phase.FAST: FAST}


def test_a_picture_and_its_caption_can_be_given(pair: Path) -> None:
    write_both()

    run_import(import_pair(alpha=2, image=Path(pair.name)))

    assert Path("runs/cat/data/cat.txt").read_text() == "a grey circle\n"


def test_two_pairs_have_two_names() -> None:
    write_both()
    run_import(import_pair(alpha=2, run=Path("a")))
    write_lora(Path(SLOW), fill=3.0)
    run_import(import_pair(alpha=2, run=Path("b")))

    first, second = (load_manifest(RunFolder(Path(name))).pair_id for name in "ab")
    assert first != second


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
    for number, name in enumerate((SLOW, FAST), 1):
        halves = {down: np.full((2, 8), number, np.float32), up_: np.ones((8, 2), np.float32)}
        save_file({f"{stem}.{half}.weight": value for half, value in halves.items()}, name)

    run_import(import_pair(alpha=2, model=str(model), run=Path("r")))

    assert set(read_lora(RunFolder(Path("r")).lora(Phase.SLOW)).tensors) == {
        f"{LAYER}.lora_A.weight",
        f"{LAYER}.lora_B.weight",
    }


def test_layers_that_the_model_lacks_are_named() -> None:
    model = write_model(("transformer_blocks.0.attn.to_k",))
    write_both()

    with pytest.raises(InputError, match=r"has no layer transformer_blocks\.0\.attn\.to_q"):
        import_pair(alpha=2, model=str(model))


def test_an_original_layout_is_refused_with_a_way_to_use_it() -> None:
    for number, name in enumerate((SLOW, FAST), 1):
        stem = "diffusion_model.double_blocks.0.img_attn.qkv"
        halves = {
            "lora_A": np.full((2, 8), number, np.float32),
            "lora_B": np.ones((24, 2), np.float32),
        }
        save_file({f"{stem}.{half}.weight": value for half, value in halves.items()}, name)

    with pytest.raises(InputError, match="original layout") as caught:
        import_pair(alpha=2)
    assert "glance infer --slow-lora" in str(caught.value.problems[0].hint)


def test_ranks_that_differ_are_refused_with_a_way_to_use_it() -> None:
    for number, name in enumerate((SLOW, FAST), 1):
        tensors = {}
        for rank, letter in ((2, "q"), (4, "k")):
            layer = f"{LAYER[:-1]}{letter}"
            tensors[f"{layer}.lora_A.weight"] = np.full((rank, 8), number, np.float32)
            tensors[f"{layer}.lora_B.weight"] = np.ones((8, rank), np.float32)
        save_file(tensors, name)

    with pytest.raises(InputError, match="ranks 2, 4"):
        import_pair(alpha=2)


def test_the_same_file_twice_is_no_pair() -> None:
    write_both()

    assert "are the same file" in refusal(LoraError, slow_lora=SLOW, fast_lora=SLOW, alpha=2)


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"folder": Path(), "slow_lora": "a", "fast_lora": "b"},
        {"slow_lora": "a"},
        {"fast_config": Path("a")},
        {"folder": Path(), "schedule": "paper"},
        {"slow_lora": "a", "fast_lora": "b", "retrain": True},
        {"slow_lora": "a", "fast_lora": "b", "caption": "x"},
    ],
)
def test_flags_that_do_not_go_together_are_refused(request_: dict[str, Any]) -> None:
    assert refusal(UsageError, **request_)


def test_a_model_that_lies_above_the_loras_is_no_name_on_the_hub() -> None:
    folder = write_model((LAYER.removeprefix("transformer."),))
    Path("project/models").mkdir(parents=True)
    folder.rename("project/models/flux")
    for number, phase in enumerate(Phase, 1):
        output = Path(f"project/output/{phase}")
        write_lora(output / "pytorch_lora_weights.safetensors", fill=float(number))
        content = {"lora_alpha": 2, "pretrained_model_name_or_path": "models/flux"}
        (output / "simpletuner_config.json").write_text(json.dumps(content))
    given = {"slow_lora": "project/output/slow", "fast_lora": "project/output/fast"}

    plan = import_pair(**given, model=None, run=Path("r"))

    assert recorded_folder(plan.settings.model, Path("r")) == Path("project/models/flux").resolve()


def test_a_model_that_no_file_names_is_warned_of() -> None:
    write_both()

    plan = import_pair(alpha=2, model=None, family="flux")

    assert "FLUX.1-dev is taken" in plan.warnings[0].message


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_an_alpha_that_is_none_is_refused(alpha: float) -> None:
    assert "it must be above 0" in refusal(InputError, slow_lora=SLOW, fast_lora=FAST, alpha=alpha)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_train_steps", [1]),
        ("learning_rate", float("nan")),
        ("learning_rate", True),
        ("lora_rank", 1.5),
        ("seed", -1),
        ("model_family", ["flux"]),
        ("model_family", "sdxl"),
        ("flow_custom_timesteps", {"a": 1}),
        ("data_backend_config", 5),
        ("data_backend_config", "config/glance-slow.json"),
        ("pretrained_model_name_or_path", "x" * 5000),
    ],
)
def test_values_of_every_kind_are_refused_and_no_bug(option: str, value: object) -> None:
    folder = write_guide(**{option: value})

    assert refusal(GlanceError, folder=folder, device="cpu")


@pytest.mark.parametrize("value", ["x/" * 5000, ["a"], {"a": 1}, 1e400, "\ud800"])
def test_further_options_of_every_kind_are_kept_or_left_out(value: object) -> None:
    plan = import_configs(write_guide(optimizer_config=value))

    run_import(plan)

    assert plan.training.settings.steps == 60


@pytest.mark.parametrize(
    ("options", "said", "hint"),
    [
        ({"lora_rank": 5000}, "lora_rank: 5000: it must be at most 4096", "lora_rank: 32, for ex"),
        ({"learning_rate": 7}, "learning_rate: 7: it must be at most 1", "learning_rate: 1e-4"),
        ({"seed": 1.5}, "seed: 1.5: it must be a whole number", 'write "seed": 1, for example'),
        (
            {"flow_custom_timesteps": "0.9,0.95"},
            "flow_custom_timesteps, value 2: 0.95 is not below ",
            "both lists together run strictly downwards",
        ),
    ],
)
def test_a_bad_value_of_a_config_is_said_with_its_file_and_key(
    options: dict[str, Any], said: str, hint: str
) -> None:
    slow = {"slow": options} if "flow_custom_timesteps" in options else {}
    guide = write_guide(**(slow or options))

    with pytest.raises(InputError) as refused:
        import_configs(guide)

    (problem,) = refused.value.problems
    assert problem.message.startswith(f"guide/config/glance-slow.json: {said}")
    assert hint in (problem.hint or "")
