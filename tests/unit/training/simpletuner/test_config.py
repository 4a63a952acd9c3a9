"""SimpleTuner's files, in its words; and `--set`, checked before its long start.

What the defaults make of each family is in configs/, which a test holds to the code.
"""

import json
import math
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from glance.core.device import Device
from glance.core.errors import InputError, Problem, SettingsError
from glance.models.families import FAMILIES
from glance.runs.settings import resolve_train_settings
from glance.runs.view import Crop
from glance.schedule.lists import PhaseSchedule, Schedule, resolve_schedule
from glance.training.simpletuner.config import (
    checkpoint_interval,
    parse_overrides,
    render_files,
    render_timesteps,
)

SLOW_FILE, FAST_FILE = "config/glance-slow/config.json", "config/glance-fast/config.json"
SEED = resolve_schedule("guide")
BACKENDS = "config/multidatabackend.json"
RECORDED = json.loads(files("glance.training.simpletuner").joinpath("options.json").read_text())


def render(
    device: Device = Device.CUDA,
    schedule: Schedule = SEED,
    *,
    picture: tuple[int, int] = (2048, 2048),
    reference: tuple[int, int] | None = None,
    **values: Any,
) -> Any:
    settings = resolve_train_settings(device=device, **values)
    return render_files(settings, schedule, views=settings.views(picture), reference=reference)


def test_each_area_and_crop_is_a_data_set_with_latents_of_its_own() -> None:
    crops = (Crop.WHOLE, Crop.CENTER)
    rendered = render(resolution=(512, 1024), crops=crops, steps=7, picture=(3000, 2000))
    *images, _ = rendered[BACKENDS]

    keys = ("id", "instance_data_dir", "resolution", "crop", "cache_dir_vae")
    others = (("whole-576x384", 384), ("center-1024x1024", 1024), ("center-512x512", 512))
    assert [tuple(one[key] for key in keys) for one in images] == [
        ("glance", "cache/pictures/whole-1280x832", 832, False, "cache/vae"),
        *(
            (f"glance-{name}", f"cache/pictures/{name}", side, False, f"cache/vae-{name}")
            for name, side in others
        ),
    ]
    assert rendered[SLOW_FILE]["resolution"] == 1024


def test_a_reference_lies_beside_the_image_in_its_own_shape() -> None:
    edit = "qwen_image_edit_2511"
    rendered = render(family=edit, steps=7, resolution=512, reference=(640, 416))

    image, reference, _ = rendered[BACKENDS]
    assert (image["repeats"], image["resolution"], reference["resolution"]) == (7, 512, 416)
    assert image["conditioning_data"] == [reference["id"]]


@pytest.mark.parametrize(
    ("family", "at_once", "times"), [("flux", 4, None), ("qwen_image_edit_2509", 1, 4)]
)
def test_a_batch_of_a_family_that_edits_is_gone_through_one_by_one(
    family: str, at_once: int, times: int | None
) -> None:
    settings = resolve_train_settings(device=Device.CPU, family=family)

    rendered = render_files(settings.model_copy(update={"batch_size": 4}), SEED)[SLOW_FILE]

    assert rendered["train_batch_size"] == at_once
    assert rendered.get("gradient_accumulation_steps") == times


def test_a_single_files_transformer_stands_in_for_the_models() -> None:
    settings = resolve_train_settings(device=Device.CUDA)
    of_file = settings.model_copy(update={"transformer": "../../mine.safetensors"})

    assert render_files(of_file, SEED)[SLOW_FILE] == {
        **render()[SLOW_FILE],
        "pretrained_transformer_model_name_or_path": "transformer",
        "pretrained_transformer_subfolder": "none",
    }


@pytest.mark.parametrize(
    ("steps", "every", "interval"),
    [(60, None, 6), (60, 20, 5), (60, 60, 6), (400, 100, 50), (60, 59, 59), (60, 2, 2), (4, 3, 1)],
)
def test_previews_are_of_checkpoints(steps: int, every: int | None, interval: int) -> None:
    assert checkpoint_interval(steps, every) == interval


@pytest.mark.parametrize("device", [Device.CPU, Device.MPS])
def test_without_cuda_everything_is_float32(device: Device) -> None:
    on_cuda, here = render()[SLOW_FILE], render(device)[SLOW_FILE]
    del on_cuda["quantize_via"]
    assert here == {
        **on_cuda,
        "optimizer": "optimi-adamw",
        "mixed_precision": "no",
        "base_model_precision": "no_change",
        "vae_dtype": "fp32",
        "gradient_checkpointing": device is not Device.CPU,
    }
    usual, changed = (render(one)["config/accelerate.json"] for one in (Device.CUDA, device))
    assert changed == {**usual, "mixed_precision": "no", "use_cpu": device is Device.CPU}


@pytest.mark.parametrize(
    ("steps", "warmup", "interval"), [(1, 0, 1), (6, 1, 1), (59, 9, 6), (60, 10, 6), (601, 10, 61)]
)
def test_warmup_and_checkpoints_follow_the_steps(steps: int, warmup: int, interval: int) -> None:
    rendered = render(steps=steps)[SLOW_FILE]
    assert rendered["max_train_steps"] == steps
    assert (rendered["lr_warmup_steps"], rendered["checkpoint_step_interval"]) == (warmup, interval)


def test_override_goes_over_glance_and_the_family() -> None:
    overrides = {"lora_dropout": 0.5, "flux_lora_target": "mmdit", "noise_offset": 0.1}
    rendered = render(overrides=overrides)
    for name in (SLOW_FILE, FAST_FILE):
        assert {key: rendered[name][key] for key in overrides} == overrides


@settings(deadline=None, derandomize=True)
@given(st.lists(st.floats(0, 1000, exclude_min=True), min_size=1, max_size=10))
def test_simpletuner_reads_the_sigmas_that_were_meant(timesteps: list[float]) -> None:
    schedule = PhaseSchedule(tuple(timesteps), 0.0)
    values = [float(part) for part in render_timesteps(schedule).split(",")]
    read = [value if max(values) <= 1 else value / 1000.0 for value in values]
    assert tuple(read) == schedule.sigmas


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("device", Device)
def test_options_are_simpletuners_and_no_path_leaves_the_run(family: str, device: Device) -> None:
    types = {"bool": bool, "int": int, "float": (int, float), "str": str}
    rendered = render(device, family=family)
    for key, value in (rendered[SLOW_FILE] | rendered[FAST_FILE]).items():
        option = RECORDED["options"][key]
        assert isinstance(value, types[option["type"]]), key
        assert str(value) in option.get("choices", [str(value)]), key
    texts = re.findall(r'"(.*?)"', json.dumps(rendered))
    assert "cache/pictures/whole-1024x1024" in texts
    assert not [text for text in texts if text.startswith(("/", "~", "..")) or "\\" in text]


type Value = bool | int | float | str


def problems_of(*pairs: str) -> tuple[Problem, ...]:
    with pytest.raises(InputError) as caught:
        parse_overrides(pairs)
    return caught.value.problems


@pytest.mark.parametrize(
    ("pair", "name", "value"),
    [
        ("gradient_accumulation_steps=4", "gradient_accumulation_steps", 4),
        ("lora_dropout=0.25", "lora_dropout", 0.25),
        ("lora_alpha=64", "lora_alpha", 64.0),
        ("lora_dropout=1e-3", "lora_dropout", 0.001),
        ("optimizer=adamw_bf16", "optimizer", "adamw_bf16"),
        ("user_prompt_library=a=b", "user_prompt_library", "a=b"),
        ("instance_prompt=", "instance_prompt", ""),
        ("--lora-dropout=0.5", "lora_dropout", 0.5),
        (" optimizer = adamw_bf16 ", "optimizer", "adamw_bf16"),
        *((f"use_ema={text}", "use_ema", True) for text in ("true", "Yes", "1")),
        *((f"use_ema={text}", "use_ema", False) for text in ("off", "FALSE", "0")),
    ],
)
def test_value_takes_the_options_type(pair: str, name: str, value: Value) -> None:
    overrides = parse_overrides([pair])
    assert overrides == {name: value}
    assert type(overrides[name]) is type(value)


TOKENS = ("hf_" + "Secret" * 5, "ghp_" + "0aB" * 12, "sk-" + "0aB" * 9)


@pytest.mark.parametrize(
    "pair",
    [
        *(f"tracker_project_name={token}" for token in TOKENS),
        f"tracker_run_name={'0a' * 20}",
        f"report_to=wandb,{TOKENS[0]}",
        f"hub_token={TOKENS[0]}",
        "wandb_api_key=short",
        "user_prompt_library=https://anna:hunter2@example.org/x",
        'optimizer_config={"access_key": "hunter2"}',
        "optimizer_config=password=hunter2",
        TOKENS[0],
        f"{TOKENS[0]}=x",
    ],
)
def test_what_looks_like_a_token_is_refused_and_not_repeated(pair: str) -> None:
    (problem,) = problems_of(pair)

    assert "its value looks like a token or a password" in problem.message
    told = f"{problem.message} {problem.hint}"
    assert not any(secret in told for secret in (*TOKENS, "0a" * 20, "hunter2", "short"))


@pytest.mark.parametrize(
    "pair",
    [
        "validation_prompt=the key to a secret garden",
        "validation_prompt=skateboarding_championship_of_1999",
        f"revision={'0a' * 20}",
        "tokenizer_max_length=77",
        "tracker_project_name=a-key-west-summer",
    ],
)
def test_what_only_speaks_of_secrets_is_none(pair: str) -> None:
    assert parse_overrides([pair])


def test_what_is_here_is_not_there_where_simpletuner_is_started() -> None:
    Path("models/vae").mkdir(parents=True)
    name = "pretrained_vae_model_name_or_path"

    (problem,) = problems_of(f"{name}=models/vae")

    assert "models/vae is here, and SimpleTuner is started in the run folder" in problem.message
    assert problem.hint == f"--set {name}={Path.cwd() / 'models/vae'}"
    assert parse_overrides([f"{name}={Path('models/vae').absolute()}"])
    assert parse_overrides([f"{name}=acme/vae", "optimizer=models", "init_lora="])


@pytest.mark.parametrize(
    ("pair", "message", "hint"),
    [
        *((pair, f"{pair}: it is not key=value", "write --set ") for pair in ("use_ema", "", "=1")),
        ("use_ema=maybe", "use_ema: 'maybe' is not true or false", None),
        ("max_workers=2.5", "max_workers: '2.5' is not a whole number", None),
        ("lora_dropout=much", "lora_dropout: 'much' is not a finite number", None),
        ("lora_dropout=nan", "lora_dropout: 'nan' is not a finite number", None),
        ("lora_dropout=-1e999", "lora_dropout: '-1e999' is not a finite number", None),
        ("quantize_via=x", "quantize_via: 'x' is not one of accelerator, cpu, pipeline", None),
        ("lora_dropuot=0", "lora_dropuot: SimpleTuner 4.10.1 has no such", "did you mean lora_dr"),
        ("xyzzy=1", "xyzzy: SimpleTuner 4.10.1 has no such option", "see `simpletuner train"),
        *(
            (f"{name}=1", f"{name}: glance sets this option itself", hint)
            for name, hint in {
                "model_family": "use --family",
                "pretrained_model_name_or_path": "use --model",
                "max_train_steps": "use --steps",
                "lora_rank": "use --rank",
                "learning_rate": "use --learning-rate",
                "resolution": "use --resolution",
                "seed": "use --seed",
                "flow_custom_timesteps": "use --schedule, --slow-timesteps or --fast-timesteps",
                "mixed_precision": "use --device",
                "train_batch_size": "there is one sample; of `glance distill`: use --batch-size",
                "output_dir": "the run folder decides it: use --run",
                "push_to_hub": "a run stays on this machine until `glance export hub`",
                "push_checkpoints_to_hub": "a run stays on this machine",
                "hub_model_id": "a run stays on this machine",
                "publishing_config": "a run stays on this machine",
            }.items()
        ),
    ],
)
def test_what_cannot_be_set_is_refused(pair: str, message: str, hint: str | None) -> None:
    (problem,) = problems_of(pair)

    assert problem.message.startswith(f"--set {message}")
    assert (problem.hint or "").startswith(hint or "")
    assert bool(problem.hint) is bool(hint)


def test_all_bad_pairs_are_refused_at_once() -> None:
    problems = problems_of("lora_rank=8", "lora_dropout=0.5", "use_ema=maybe", "xyzzy=1", "oops")

    names = [problem.message.split(":")[0].removeprefix("--set ") for problem in problems]
    assert names == ["lora_rank", "use_ema", "xyzzy", "oops"]


@settings(deadline=None, derandomize=True)
@given(st.sampled_from(["lora_dropout", "max_workers", "use_ema"]), st.text())
@example("max_workers", "9" * 400)
@example("max_workers", "9" * 5000)
@example("lora_dropout", "\N{ARABIC-INDIC DIGIT TWO}")
def test_any_text_is_a_finite_value_or_a_settings_error(name: str, text: str) -> None:
    try:
        overrides = parse_overrides([f"{name}={text}"])
    except SettingsError:
        return
    assert -math.inf < overrides[name] < math.inf
