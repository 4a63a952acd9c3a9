"""Images of one loaded model: what steers one; the same in every order and batch, none lost."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from plain_loops import FAST, SLOW, decode, flux
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from glance.core.errors import InferenceFailed, InputError, SetupError
from glance.core.events import Event, PictureDone, SamplingStep
from glance.core.phase import Phase
from glance.sampling import generate as execute
from glance.sampling.generate import KeptModel, run_generation
from glance.sampling.pipeline.glance_pipeline import GlancePipeline
from glance.sampling.pipeline.memory import explaining_lack_of_memory
from glance.sampling.plan import GenerationPlan, plan_base, plan_generation
from glance.sampling.provenance import read_record
from glance.sampling.request import InferRequest
from glance.sampling.settings import resolve_sample_settings
from glance.schedule.options import ScheduleOptions

SIZE = {"width": 64, "height": 64}


def generate(planned: GenerationPlan) -> list[Event]:
    events: list[Event] = []
    run_generation(planned, events.append)
    return events


def told(events: list[Event]) -> list[PictureDone]:
    return [one for one in events if isinstance(one, PictureDone)]


def pixels(
    sampler: GlancePipeline, planned: GenerationPlan, *, batch_size: int = 1
) -> dict[Any, bytes]:
    wanted = [one.settings for one in planned.images]
    batches = sampler.sample_each(wanted, batch_size=batch_size)
    images = [one for done in batches for one in done.images]
    return {(one.settings.prompt, one.settings.seed): one.image.tobytes() for one in images}


@contextmanager
def failing_forwards(module: torch.nn.Module, fails: Callable[[list[int]], bool]) -> Iterator[Any]:
    """Give the batch sizes of a module's forward passes; the memory lacks where `fails` says so."""
    sizes: list[int] = []

    def tell(_: Any, arguments: Any, named: dict[str, Any]) -> None:
        sizes.append(len(named["hidden_states"] if "hidden_states" in named else arguments[0]))
        if fails(sizes):
            raise torch.OutOfMemoryError("made up")

    with module.register_forward_pre_hook(tell, with_kwargs=True):
        yield sizes


@torch.inference_mode()
def test_true_cfg_leads_away_from_the_negative_prompt(sampler: GlancePipeline) -> None:
    settings = resolve_sample_settings(
        sampler.family, prompt="a hill", seed=3, negative_prompt="a sea", true_cfg=2.5, **SIZE
    )

    (generated,) = sampler.sample_one(settings).images

    x, with_ = flux.begin(sampler.pipeline, "a hill", torch.Generator("cpu").manual_seed(3))
    _, without = flux.begin(sampler.pipeline, "a sea", torch.Generator("cpu").manual_seed(3))
    sigmas = torch.tensor([timestep / 1000 for timestep in (*SLOW, FAST[0])])
    sampler.pipeline.set_adapters("slow")
    for now, then in pairwise(sigmas):
        away = without(x, now[None], 3.5)
        x = x + (then - now) * (away + 2.5 * (with_(x, now[None], 3.5) - away))
    assert torch.equal(generated.latents, x)


def test_a_setting_that_there_is_not_is_a_bug_of_the_caller(sampler: GlancePipeline) -> None:
    with pytest.raises(TypeError, match="unknown setting 'guidance'; there are negative_prompt"):
        sampler("a hill", guidance=3.0)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg"])
def test_a_picture_is_generated_again_to_the_byte(plan: Callable, suffix: str) -> None:
    first = Path(f"first{suffix}")
    asked = {"seeds": (3,), "slow_guidance": 2.0, "fast_scale": 0.5}
    generate(plan(**asked, schedule=ScheduleOptions(fast_timesteps="886.7053,400"), output=first))

    known = {"run": None, "prompts": (), "from_image": first}
    generate(plan(**known, output=Path(f"again{suffix}")))
    generate(plan(**known, seeds=(4,), output=Path(f"other{suffix}")))

    assert Path(f"again{suffix}").read_bytes() == first.read_bytes()
    assert Path(f"other{suffix}").read_bytes() != first.read_bytes()


def test_the_fast_phase_alone_goes_on_from_saved_latents_unless_nan(plan: Callable) -> None:
    whole = run_generation(plan(seeds=(3,), save_latents=True), lambda _: None).images[0]
    latents = whole.with_suffix(".latents.safetensors")
    known = {"run": None, "prompts": (), "init_latents": latents}

    result = run_generation(plan(**known, output=Path("rest.png")), lambda _: None)

    assert Image.open("rest.png").tobytes() == Image.open(whole).tobytes()
    assert result.sigmas[Phase.SLOW] == ()
    assert read_record(Path("rest.png")).init_latents_sha256 is not None
    with safe_open(latents, framework="pt") as file:
        metadata = file.metadata()
    spoilt = {"latents": load_file(latents)["latents"] * torch.nan}
    save_file(spoilt, latents, metadata=metadata)
    with pytest.raises(InputError, match="holds NaN or infinity"):
        generate(plan(**known, output=Path("other.png")))


def test_previews_lie_beside_the_pictures_which_say_what_made_them(plan: Callable) -> None:
    generate(plan(seeds=(1, 2), save_phases=True, output=Path("out")))

    assert sorted(path.name for path in Path("out").iterdir()) == [
        *("a-hill-1-slow.png", "a-hill-1.png", "a-hill-2-slow.png", "a-hill-2.png"),
    ]
    first, second = Image.open("out/a-hill-2.png").info["parameters"].splitlines()
    assert first == "a hill"
    assert second.startswith("Steps: 10, Sampler: Euler, ")
    assert "Seed: 2, Size: 64x64" in second


def test_without_metadata_a_picture_is_silent(plan: Callable) -> None:
    generate(plan(metadata=False, output=Path("x.png")))

    assert Image.open("x.png").info == {}


def test_the_order_changes_no_picture_and_each_prompt_is_encoded_once(
    sampler: GlancePipeline, plan: Callable
) -> None:
    with (
        failing_forwards(sampler.pipeline.text_encoder_2, lambda _: False) as encoded,
        failing_forwards(sampler.pipeline.transformer, lambda _: False) as stepped,
    ):
        there = pixels(sampler, plan(prompts=("a", "b"), seeds=(1, 2)))
    back = pixels(sampler, plan(prompts=("b", "a"), seeds=(2, 1)))

    assert there == back
    assert len(set(there.values())) == 4
    assert (len(encoded), len(stepped)) == (2, 4 * 10)


def test_final_latents_are_what_was_decoded(sampler: GlancePipeline, plan: Callable) -> None:
    wanted = [one.settings for one in plan(prompts=("a", "b"), seeds=(1, 2)).images]

    pair = sampler.sample_one(wanted[0]).images[0]
    alone = [b.images[0] for b in sampler.sample_base(wanted, steps=5)]
    batches = list(sampler.sample_base(wanted, steps=5, batch_size=3))

    assert [len(batch.images) for batch in batches] == [3, 1]
    together = [one for batch in batches for one in batch.images]
    for one in (pair, *alone):
        assert decode("flux", sampler.pipeline, one.final).tobytes() == one.image.tobytes()
        assert one.final.dtype == torch.float32
    for one, other, settings in zip(alone, together, wanted, strict=True):
        assert one.settings == other.settings == settings
        torch.testing.assert_close(one.final, other.final, rtol=1e-4, atol=1e-4)


def test_a_batch_too_large_for_memory_is_halved(sampler: GlancePipeline, plan: Callable) -> None:
    planned = plan(prompts=("a",), seeds=(1, 2, 3))
    wanted = [one.settings for one in planned.images]
    alone = pixels(sampler, planned)

    with failing_forwards(sampler.pipeline.transformer, lambda sizes: sizes[-1] > 1) as sizes:
        batches = pixels(sampler, planned, batch_size=3)
        tried = [*sizes]
        base = list(sampler.sample_base(wanted, steps=2, batch_size=3))

    assert list(batches) == list(alone)
    assert tried[:3] == [3, 2, 1]
    assert set(tried[3:]) == {1}  # what did not fit is not tried again
    assert [one.settings.seed for done in base for one in done.images] == [1, 2, 3]


def test_one_picture_that_memory_does_not_suffice_for_is_said_with_a_remedy(
    sampler: GlancePipeline, plan: Callable
) -> None:
    with (
        failing_forwards(sampler.pipeline.transformer, lambda _: True),
        pytest.raises(InferenceFailed, match="memory does not suffice for 64x64 pixels"),
    ):
        pixels(sampler, plan(prompts=("a",)), batch_size=2)


def test_the_cpus_lack_of_memory_is_said_and_other_errors_stay_what_they_are() -> None:
    with (
        pytest.raises(InferenceFailed, match="memory does not suffice for a trial"),
        explaining_lack_of_memory("a trial"),
    ):
        torch.empty(2**60)
    with pytest.raises(RuntimeError, match="must match"), explaining_lack_of_memory("a trial"):
        torch.ones(2) + torch.ones(3)


def test_progress_runs_over_all_pictures_and_each_is_told(plan: Callable) -> None:
    events = generate(plan(prompts=("a",), seeds=(1, 2), batch_size=2))

    steps = [one for one in events if isinstance(one, SamplingStep)]
    assert [one.done for one in steps] == [*range(2, 21, 2)]
    assert {one.total for one in steps} == {20}
    assert steps[0].eta_seconds is None
    assert steps[-1].eta_seconds == 0
    assert [(one.number, one.total, one.seed) for one in told(events)] == [(1, 2, 1), (2, 2, 2)]


def test_what_is_generated_stays_when_the_rest_fails_and_is_not_generated_again(
    sampler: GlancePipeline, plan: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = {"prompts": ("a",), "seeds": (1, 2, 3)}
    with (
        failing_forwards(sampler.pipeline.transformer, lambda sizes: len(sizes) == 15),
        pytest.raises(InferenceFailed),
    ):
        generate(plan(**request))

    resumed = plan(**request)
    events = generate(resumed)

    assert [one.is_done for one in resumed.images] == [True, False, False]
    assert [one.was_there for one in told(events)] == [True, False, False]
    assert all(Image.open(one.output).size == (64, 64) for one in resumed.images)
    whole = plan(**request)
    monkeypatch.setattr(execute, "load_planned", None)  # nothing is loaded when all is there
    assert [one.was_there for one in told(generate(whole))] == [True, True, True]
    nothing = dict.fromkeys(("load", "encode", "slow", "fast", "decode"), 0)
    assert run_generation(whole, lambda _: None).to_json()["seconds"] == nothing


def test_a_folder_that_vanishes_costs_the_picture_and_no_other(plan: Callable) -> None:
    planned = plan(prompts=("a",), seeds=(1, 2), output=Path("out"))

    def take_away(event: Event) -> None:
        if isinstance(event, PictureDone):
            Path("out").rename("elsewhere")
            Path("out").write_text("a file now")

    with pytest.raises(SetupError, match="cannot write out"):
        run_generation(planned, take_away)

    assert [path.name for path in Path("elsewhere").iterdir()] == ["a-1.png"]


def test_nan_is_no_picture(sampler: GlancePipeline, plan: Callable) -> None:
    planned = plan(prompts=("a",))

    hook = sampler.pipeline.transformer.register_forward_hook(
        lambda _module, _given, output: (output[0] * torch.nan,)
    )
    with hook, pytest.raises(InferenceFailed, match="NaN or infinity instead of an image"):
        generate(planned)

    assert not planned.images[0].output.exists()


def test_the_bases_image_beside_the_pairs_is_what_it_makes_alone(run_folder: Path) -> None:
    """The model is loaded once for both."""
    asked = {"prompts": ("a hill",), "run": run_folder, "device": "cpu", "output": Path("x.png")}
    request = InferRequest(**asked, **SIZE)
    plan = plan_generation(request)
    alone = plan_base(plan, request)
    kept = KeptModel([plan, alone])
    run_generation(plan, lambda _: None, kept=kept)
    (beside,) = run_generation(alone, lambda _: None, kept=kept).images

    assert beside == Path("x-base.png")
    single = plan_generation(replace(request, loras=(), output=Path("y.png")))
    run_generation(single, lambda _: None)
    assert Image.open(beside).tobytes() == Image.open("y.png").tobytes()
    assert Image.open(beside).tobytes() != Image.open("x.png").tobytes()
    assert plan_base(plan_generation(request), request).images[0].is_done
