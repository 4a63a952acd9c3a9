"""SimpleTuner's files, in its words; and `--set`, checked before its long start."""

import json
import math
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from glance.core.device import Device
from glance.core.errors import Problem, SettingsError
from glance.dataset.view import Crop
from glance.models.families import FAMILIES
from glance.runs.settings import resolve_train_settings
from glance.schedule.lists import PhaseSchedule, Schedule, resolve_schedule
from glance.training.simpletuner.config import parse_overrides, render_files, render_timesteps

SLOW_FILE, FAST_FILE = "config/glance-slow/config.json", "config/glance-fast/config.json"
SEED = resolve_schedule("guide")
OPTIONS = json.loads(files("glance.training.simpletuner").joinpath("options.json").read_text())[
    "options"
]

every_family = pytest.mark.parametrize("family", FAMILIES)
every_device = pytest.mark.parametrize("device", Device)


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


def texts_in(content: Any) -> Iterator[str]:
    match content:
        case dict():
            yield from texts_in([*content.keys(), *content.values()])
        case list():
            for item in content:
                yield from texts_in(item)
        case str():
            yield content


# --- whole files ---------------------------------------------------------------------------------


def test_slow_config_of_the_guides_example() -> None:
    assert render()[SLOW_FILE] == {
        "model_type": "lora",
        "model_family": "flux",
        "pretrained_model_name_or_path": "black-forest-labs/FLUX.1-dev",
        "data_backend_config": "config/multidatabackend.json",
        "train_batch_size": 1,
        "max_train_steps": 60,
        "num_train_epochs": 0,
        "lora_type": "standard",
        "lora_rank": 32,
        "lora_alpha": 128,
        "lora_dropout": 0.0,
        "output_dir": "output/glance-slow",
        "flow_custom_timesteps": "1000,979.1915,957.5157,934.9171,911.3354",
        "flow_timesteps_mode": "round-robin",
        "learning_rate": 5e-4,
        "lr_scheduler": "constant_with_warmup",
        "lr_warmup_steps": 10,
        "optimizer": "adamw_bf16",
        "mixed_precision": "bf16",
        "base_model_precision": "int8-quanto",
        "quantize_via": "cpu",
        "vae_dtype": "bf16",
        "gradient_checkpointing": True,
        "caption_dropout_probability": 0.0,
        "resolution": 1024,
        "aspect_bucket_alignment": "64",
        "aspect_bucket_rounding": 9,
        "resolution_type": "pixel_area",
        "minimum_image_size": 0,
        "seed": 1,
        "checkpoint_step_interval": 6,
        "checkpointing_use_tempdir": True,
        "checkpoints_total_limit": 2,
        "resume_from_checkpoint": "latest",
        "validation_disable": True,
        "disable_benchmark": True,
        "report_to": "none",
        "push_to_hub": False,
        "webhook_config": "{env:GLANCE_WEBHOOK}",
        "flux_lora_target": "all",
        "flux_guidance_mode": "constant",
        "flux_guidance_value": 1.0,
    }


def test_fast_config_differs_in_its_timesteps_and_its_output_alone() -> None:
    rendered = render()
    assert rendered[FAST_FILE] == {
        **rendered[SLOW_FILE],
        "output_dir": "output/glance-fast",
        "flow_custom_timesteps": "886.7053,745.0728,562.9505,320.0802,20.0",
    }


def test_data_backends_hold_the_one_pair_for_the_whole_phase() -> None:
    assert render(steps=7, resolution=512)["config/multidatabackend.json"] == [
        {
            "id": "glance",
            "type": "local",
            "dataset_type": "image",
            "instance_data_dir": "cache/pictures/whole-512x512",
            "caption_strategy": "textfile",
            "disable_multiline_split": True,
            "resolution": 512,
            "resolution_type": "pixel",
            "minimum_image_size": 0,
            "crop": False,
            "cache_dir_vae": "cache/vae",
            "metadata_backend": "json",
            "repeats": 7,
        },
        {
            "id": "text",
            "type": "local",
            "dataset_type": "text_embeds",
            "default": True,
            "cache_dir": "cache/text",
        },
    ]


def test_each_area_and_crop_is_a_data_set_with_latents_of_its_own() -> None:
    crops = (Crop.WHOLE, Crop.CENTER)
    rendered = render(resolution=(512, 1024), crops=crops, steps=7, picture=(3000, 2000))
    *images, _ = rendered["config/multidatabackend.json"]

    keys = ("id", "instance_data_dir", "resolution", "crop", "cache_dir_vae")
    assert [tuple(one[key] for key in keys) for one in images] == [
        ("glance", "cache/pictures/whole-1280x832", 832, False, "cache/vae"),
        (
            "glance-whole-576x384",
            "cache/pictures/whole-576x384",
            384,
            False,
            "cache/vae-whole-576x384",
        ),
        (
            "glance-center-1024x1024",
            "cache/pictures/center-1024x1024",
            1024,
            False,
            "cache/vae-center-1024x1024",
        ),
        (
            "glance-center-512x512",
            "cache/pictures/center-512x512",
            512,
            False,
            "cache/vae-center-512x512",
        ),
    ]
    assert rendered["config/glance-slow/config.json"]["resolution"] == 1024


@pytest.mark.parametrize("family", ["qwen_image_edit_2509", "qwen_image_edit_2511"])
def test_a_family_that_edits_has_its_reference_beside_the_image(family: str) -> None:
    rendered = render(family=family, steps=7, resolution=512, reference=(640, 416))
    backends = rendered["config/multidatabackend.json"]

    image, reference, text = backends
    usual = render(steps=7, resolution=512)["config/multidatabackend.json"]
    assert [{**image, "conditioning_data": None}, text] == [
        {**usual[0], "conditioning_data": None},
        usual[1],
    ]
    assert image["conditioning_data"] == [reference["id"]]
    assert reference == {
        "id": "reference",
        "type": "local",
        "dataset_type": "conditioning",
        "conditioning_type": "reference_loose",
        "instance_data_dir": "{env:PWD}/cache/reference",
        "caption_strategy": "textfile",
        "disable_multiline_split": True,
        "resolution": 416,
        "resolution_type": "pixel",
        "minimum_image_size": 0,
        "crop": False,
        "cache_dir_vae": "cache/vae-reference",
        "metadata_backend": "json",
    }


@pytest.mark.parametrize(
    ("family", "at_once", "times"),
    [("flux", 4, None), ("qwen_image_edit_2509", 1, 4), ("qwen_image_edit_2511", 1, 4)],
)
def test_a_batch_of_a_family_that_edits_is_gone_through_one_by_one(
    family: str, at_once: int, times: int | None
) -> None:
    settings = resolve_train_settings(device=Device.CPU, family=family)

    rendered = render_files(settings.model_copy(update={"batch_size": 4}), SEED)[SLOW_FILE]

    assert rendered["train_batch_size"] == at_once
    assert rendered.get("gradient_accumulation_steps") == times


@pytest.mark.parametrize(
    ("device", "precision", "use_cpu"),
    [(Device.CUDA, "bf16", False), (Device.MPS, "no", False), (Device.CPU, "no", True)],
)
def test_accelerate_runs_one_process_on_the_device(
    device: Device, precision: str, use_cpu: bool
) -> None:
    assert render(device)["config/accelerate.json"] == {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "NO",
        "mixed_precision": precision,
        "use_cpu": use_cpu,
        "num_processes": 1,
        "num_machines": 1,
        "machine_rank": 0,
        "debug": False,
    }


def test_a_single_files_transformer_stands_in_for_the_models() -> None:
    of_file = resolve_train_settings(device=Device.CUDA).model_copy(
        update={"transformer": "../../mine.safetensors"}
    )
    usual = render()[SLOW_FILE]

    rendered = render_files(of_file, SEED)[SLOW_FILE]

    assert rendered == {
        **usual,
        "pretrained_transformer_model_name_or_path": "transformer",
        "pretrained_transformer_subfolder": "none",
    }


def test_pictures_while_training_are_off_unless_asked_for() -> None:
    usual, asked = render()[SLOW_FILE], render(sample_every=20, sample_prompt="a fox")[SLOW_FILE]

    assert usual["validation_disable"] is True
    assert {key: asked[key] for key in asked if usual.get(key) != asked[key]} == {
        "validation_disable": False,
        "validation_step_interval": 20,
        "validation_prompt": "a fox",
        "validation_resolution": "1024x1024",
        "validation_seed": 1,
        "validation_guidance": 3.5,
        "validation_disable_unconditional": True,
    }


# --- what the settings change --------------------------------------------------------------------


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


# --- timesteps -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("timesteps", "text"),
    [
        ((1000.0, 20.0), "1000,20.0"),
        ((1.5, 0.5), "1.5,0.5"),
        ((1.0, 0.5), "0.001,0.0005"),
        ((0.25,), "0.00025"),
    ],
)
def test_timesteps_that_would_be_taken_for_sigmas_are_handed_over_as_sigmas(
    timesteps: tuple[float, ...], text: str
) -> None:
    assert render_timesteps(PhaseSchedule(timesteps, 0.0)) == text


@settings(deadline=None, derandomize=True)
@given(st.lists(st.floats(0, 1000, exclude_min=True), min_size=1, max_size=10))
def test_simpletuner_reads_the_sigmas_that_were_meant(timesteps: list[float]) -> None:
    schedule = PhaseSchedule(tuple(timesteps), 0.0)
    values = [float(part) for part in render_timesteps(schedule).split(",")]
    read = [value if max(values) <= 1 else value / 1000.0 for value in values]
    assert tuple(read) == schedule.sigmas


# --- any config ----------------------------------------------------------------------------------


@every_family
@every_device
def test_every_option_is_one_of_simpletuners_with_an_allowed_value(
    family: str, device: Device
) -> None:
    types = {"bool": bool, "int": int, "float": (int, float), "str": str}
    rendered = render(device, family=family)
    for key, value in (rendered[SLOW_FILE] | rendered[FAST_FILE]).items():
        assert isinstance(value, types[OPTIONS[key]["type"]]), key
        assert str(value) in OPTIONS[key].get("choices", [str(value)]), key


@every_family
@every_device
def test_no_path_leaves_the_run(family: str, device: Device) -> None:
    texts = list(texts_in(render(device, family=family)))
    assert "cache/pictures/whole-1024x1024" in texts
    assert not [text for text in texts if text.startswith(("/", "~", "..")) or "\\" in text]


_HUB = "a run stays on this machine until `glance export hub` sends what is made for it"

type Value = bool | int | float | str


def problems_of(*pairs: str) -> tuple[Problem, ...]:
    with pytest.raises(SettingsError) as caught:
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
        ("lr_scheduler=cosine", "lr_scheduler", "cosine"),
        ("base_model_precision=int4-quanto", "base_model_precision", "int4-quanto"),
        ("user_prompt_library=a=b", "user_prompt_library", "a=b"),
        ("instance_prompt=", "instance_prompt", ""),
        ("--lora-dropout=0.5", "lora_dropout", 0.5),
        (" optimizer = adamw_bf16 ", "optimizer", "adamw_bf16"),
    ],
)
def test_value_takes_the_options_type(pair: str, name: str, value: Value) -> None:
    overrides = parse_overrides([pair])
    assert overrides == {name: value}
    assert type(overrides[name]) is type(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("Yes", True), ("1", True), ("off", False), ("FALSE", False), ("0", False)],
)
def test_switches_are_read_in_every_usual_spelling(text: str, value: bool) -> None:
    assert parse_overrides([f"use_ema={text}"]) == {"use_ema": value}


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


@pytest.mark.parametrize("name", ["push_checkpoints_to_hub", "hub_model_id", "publishing_config"])
def test_what_would_publish_a_run_is_refused(name: str) -> None:
    (problem,) = problems_of(f"{name}=true")

    assert "glance export hub" in (problem.hint or "")


def test_the_last_of_two_values_counts() -> None:
    assert parse_overrides(["lora_dropout=0.1", "lora-dropout=0.2"]) == {"lora_dropout": 0.2}


def test_nothing_set_is_nothing_overridden() -> None:
    assert parse_overrides([]) == {}


def test_what_is_here_is_not_there_where_simpletuner_is_started(tmp_path: Path) -> None:
    Path("models/vae").mkdir(parents=True)
    name = "pretrained_vae_model_name_or_path"

    (problem,) = problems_of(f"{name}=models/vae")

    assert "models/vae is here, and SimpleTuner is started in the run folder" in problem.message
    assert problem.hint == f"--set {name}={Path.cwd() / 'models/vae'}"
    assert parse_overrides([f"{name}={Path('models/vae').absolute()}"])
    assert parse_overrides([f"{name}=acme/vae", "optimizer=models", "init_lora="])


@pytest.mark.parametrize("pair", ["lora_dropout", "", "=0.5", "--=0.5"])
def test_what_is_no_pair_is_refused(pair: str) -> None:
    assert problems_of(pair) == (
        Problem(f"--set {pair}: it is not key=value", "write --set lora_dropout=0.1"),
    )


def test_misspelt_option_is_refused_with_those_near_it() -> None:
    [problem] = problems_of("lora_dropuot=0.5")
    assert problem.message == "--set lora_dropuot: SimpleTuner 4.10.1 has no such option"
    assert (problem.hint or "").startswith("did you mean lora_dropout")


def test_option_unlike_any_other_is_refused() -> None:
    [problem] = problems_of("xyzzy=1")
    assert problem.hint == "see `simpletuner train --help`"


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("use_ema=maybe", "--set use_ema: 'maybe' is not true or false"),
        ("max_workers=2.5", "--set max_workers: '2.5' is not a whole number"),
        ("lora_dropout=much", "--set lora_dropout: 'much' is not a finite number"),
        ("lora_dropout=nan", "--set lora_dropout: 'nan' is not a finite number"),
        ("lora_dropout=-1e999", "--set lora_dropout: '-1e999' is not a finite number"),
        (
            "quantize_via=gpu",
            "--set quantize_via: 'gpu' is not one of accelerator, cpu, pipeline",
        ),
    ],
)
def test_value_of_another_type_is_refused(pair: str, message: str) -> None:
    assert problems_of(pair) == (Problem(message),)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("model_family", "use --family"),
        ("pretrained_model_name_or_path", "use --model"),
        ("max_train_steps", "use --steps"),
        ("lora_rank", "use --rank"),
        ("learning_rate", "use --learning-rate"),
        ("resolution", "use --resolution"),
        ("seed", "use --seed"),
        ("flow_custom_timesteps", "use --schedule, --slow-timesteps or --fast-timesteps"),
        ("mixed_precision", "use --device: it decides precision"),
        ("output-dir", "the run folder decides it: use --run"),
        ("push_to_hub", _HUB),
    ],
)
def test_option_that_glance_decides_is_refused_with_the_flag_to_use(name: str, remedy: str) -> None:
    message = f"--set {name.replace('-', '_')}: it makes this a Glance run"
    assert problems_of(f"{name}=1") == (Problem(message, remedy),)


def test_all_bad_pairs_are_refused_at_once() -> None:
    problems = problems_of("lora_rank=8", "lora_dropout=0.5", "use_ema=maybe", "xyzzy=1", "oops")
    assert [problem.message.split(":")[0] for problem in problems] == [
        "--set lora_rank",
        "--set use_ema",
        "--set xyzzy",
        "--set oops",
    ]


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
