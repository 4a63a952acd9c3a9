"""`--set key=value`: what SimpleTuner knows is converted, everything else is refused at once."""

import math
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from glance.core.errors import Problem, SettingsError
from glance.training.simpletuner.config import parse_overrides

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
