"""Several pictures of one loaded model: the same ones in every order and batch, none lost."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from glance.core.errors import InferenceFailed, SetupError
from glance.core.events import Event, PictureDone, SamplingStep
from glance.sampling import generate as execute
from glance.sampling.generate import load_planned, run_generation
from glance.sampling.pipeline.memory import explaining_lack_of_memory
from glance.sampling.pipeline.sample import TwoPhase
from glance.sampling.plan import GenerationPlan, plan_generation
from glance.sampling.request import InferRequest


@pytest.fixture(scope="module")
def sampler(tiny_flux: Path, loras: dict[str, Path]) -> TwoPhase:
    request = InferRequest(
        prompts=("x",),
        model=str(tiny_flux),
        device="cpu",
        slow_lora=str(loras["slow"]),
        fast_lora=str(loras["fast"]),
    )
    return load_planned(plan_generation(request))


@pytest.fixture
def plan(run_folder: Path, monkeypatch: pytest.MonkeyPatch, sampler: TwoPhase) -> Callable:
    """Plan for the made run; the model that is loaded already serves all of them."""
    monkeypatch.setattr(execute, "load_planned", lambda *_: sampler)

    def make(**request: Any) -> GenerationPlan:
        return plan_generation(InferRequest(**{"run": run_folder, "device": "cpu", **request}))

    return make


def decode(sampler: TwoPhase, latents: torch.Tensor) -> bytes:
    """Return the pixels of FLUX's latents at 64x64."""
    pipeline, vae = sampler.pipeline, sampler.pipeline.vae
    grid = pipeline._unpack_latents(latents, 64, 64, pipeline.vae_scale_factor)
    with torch.inference_mode():
        decoded = vae.decode(grid / vae.config.scaling_factor + vae.config.shift_factor).sample
    return pipeline.image_processor.postprocess(decoded)[0].tobytes()


def generate(planned: GenerationPlan) -> list[Event]:
    events: list[Event] = []
    run_generation(planned, events.append)
    return events


def pixels(sampler: TwoPhase, planned: GenerationPlan, *, batch_size: int = 1) -> dict[Any, bytes]:
    wanted = [one.settings for one in planned.images]
    batches = sampler.sample_each(wanted, batch_size=batch_size)
    return {
        (one.settings.prompt, one.settings.seed): one.image.tobytes()
        for done in batches
        for one in done.images
    }


def test_the_order_changes_no_picture(sampler: TwoPhase, plan: Callable) -> None:
    there = pixels(sampler, plan(prompts=("a", "b"), seeds=(1, 2)))
    back = pixels(sampler, plan(prompts=("b", "a"), seeds=(2, 1)))

    assert there == back
    assert len(set(there.values())) == 4


@pytest.mark.parametrize("batch_size", [2, 3, 8])
def test_the_batch_changes_no_picture(sampler: TwoPhase, plan: Callable, batch_size: int) -> None:
    planned = plan(prompts=("a hill", "a sea"), seeds=(1, 2))

    alone, together = pixels(sampler, planned), pixels(sampler, planned, batch_size=batch_size)

    away = [
        abs(one - other)
        for name in alone
        for one, other in zip(alone[name], together[name], strict=True)
    ]
    assert max(away) <= 1  # matrix products of another shape may round differently


class TestFinalLatents:
    def test_those_of_two_phases_are_what_the_picture_was_decoded_from(
        self, sampler: TwoPhase, plan: Callable
    ) -> None:
        (done,) = sampler.sample_each([plan(prompts=("a",)).settings])

        (generated,) = done.images
        assert decode(sampler, generated.final) == generated.image.tobytes()
        assert generated.final.dtype == torch.float32

    def test_those_of_the_base_are_too_one_by_one_and_in_a_batch(
        self, sampler: TwoPhase, plan: Callable
    ) -> None:
        wanted = [one.settings for one in plan(prompts=("a", "b"), seeds=(1, 2)).images]

        alone = [b.images[0] for b in sampler.sample_base(wanted, steps=5)]
        batches = list(sampler.sample_base(wanted, steps=5, batch_size=3))

        assert [len(batch.images) for batch in batches] == [3, 1]
        together = [one for batch in batches for one in batch.images]
        for one, other, settings in zip(alone, together, wanted, strict=True):
            assert one.settings == other.settings == settings
            assert decode(sampler, one.final) == one.image.tobytes()
            torch.testing.assert_close(one.final, other.final, rtol=1e-4, atol=1e-4)

    def test_a_batch_of_the_base_that_memory_does_not_suffice_for_is_halved(
        self, sampler: TwoPhase, plan: Callable
    ) -> None:
        wanted = [one.settings for one in plan(prompts=("a",), seeds=(1, 2, 3)).images]

        with counting(sampler.pipeline.transformer, refusing_more_than(1, [])):
            batches = list(sampler.sample_base(wanted, steps=2, batch_size=3))

        assert [one.settings.seed for done in batches for one in done.images] == [1, 2, 3]


def test_each_prompt_is_encoded_once(sampler: TwoPhase, plan: Callable) -> None:
    encoded = []
    with counting(sampler.pipeline.text_encoder_2, encoded.append):
        pixels(sampler, plan(prompts=("a", "b", "a"), seeds=(1, 2)))

    assert len(encoded) == 2


def test_a_batch_that_memory_does_not_suffice_for_is_halved(
    sampler: TwoPhase, plan: Callable
) -> None:
    planned = plan(prompts=("a",), seeds=(1, 2, 3))
    alone = pixels(sampler, planned)
    sizes: list[int] = []

    with counting(sampler.pipeline.transformer, refusing_more_than(1, sizes)):
        batches = pixels(sampler, planned, batch_size=3)

    assert list(batches) == list(alone)
    assert sizes[:3] == [3, 2, 1]
    assert set(sizes[3:]) == {1}  # what did not fit is not tried again


def test_one_picture_that_memory_does_not_suffice_for_is_said_with_a_remedy(
    sampler: TwoPhase, plan: Callable
) -> None:
    with (
        counting(sampler.pipeline.transformer, refusing_more_than(0, [])),
        pytest.raises(InferenceFailed, match="memory does not suffice for 64x64 pixels"),
    ):
        pixels(sampler, plan(prompts=("a",)), batch_size=2)


def test_the_cpus_lack_of_memory_is_said_too() -> None:
    with (
        pytest.raises(InferenceFailed, match="memory does not suffice for a trial"),
        explaining_lack_of_memory("a trial"),
    ):
        torch.empty(2**60)


def test_other_errors_of_torch_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="must match"), explaining_lack_of_memory("a trial"):
        torch.ones(2) + torch.ones(3)


def test_progress_runs_over_all_pictures_and_each_is_told(plan: Callable) -> None:
    events = generate(plan(prompts=("a",), seeds=(1, 2), batch_size=2))

    steps = [one for one in events if isinstance(one, SamplingStep)]
    assert [one.done for one in steps] == [*range(2, 21, 2)]
    assert {one.total for one in steps} == {20}
    assert steps[0].eta_seconds is None
    assert steps[-1].eta_seconds == 0
    told = [one for one in events if isinstance(one, PictureDone)]
    assert [(one.number, one.total, one.seed) for one in told] == [(1, 2, 1), (2, 2, 2)]


def test_what_is_generated_stays_when_the_rest_fails_and_is_not_generated_again(
    sampler: TwoPhase, plan: Callable
) -> None:
    request = {"prompts": ("a",), "seeds": (1, 2, 3)}
    calls: list[int] = []
    with (
        counting(sampler.pipeline.transformer, failing_at(15, calls)),
        pytest.raises(InferenceFailed),
    ):
        generate(plan(**request))

    resumed = plan(**request)
    events = generate(resumed)

    assert [one.is_done for one in resumed.images] == [True, False, False]
    assert [one.was_there for one in events if isinstance(one, PictureDone)] == [True, False, False]
    assert all(Image.open(one.output).size == (64, 64) for one in resumed.images)


def test_nothing_is_loaded_when_all_is_there(plan: Callable, monkeypatch: Any) -> None:
    request = {"prompts": ("a",), "seeds": (1, 2)}
    generate(plan(**request))
    monkeypatch.setattr(execute, "load_planned", None)

    events = generate(plan(**request))

    assert [one.was_there for one in events if isinstance(one, PictureDone)] == [True, True]
    result = run_generation(plan(**request), lambda _: None)
    assert result.to_json()["seconds"] == dict.fromkeys(
        ("load", "encode", "slow", "fast", "decode"), 0
    )


def test_a_folder_that_vanishes_costs_the_picture_and_no_other(
    plan: Callable, sampler: TwoPhase
) -> None:
    planned = plan(prompts=("a",), seeds=(1, 2), output=Path("out"))

    def take_away(event: Event) -> None:
        if isinstance(event, PictureDone):
            Path("out").rename("elsewhere")
            Path("out").write_text("a file now")

    with pytest.raises(SetupError, match="cannot write out"):
        run_generation(planned, take_away)

    assert [path.name for path in Path("elsewhere").iterdir()] == ["a-1.png"]


def test_nan_is_no_picture(sampler: TwoPhase, plan: Callable) -> None:
    planned = plan(prompts=("a",))

    hook = sampler.pipeline.transformer.register_forward_hook(
        lambda _module, _given, output: (output[0] * torch.nan,)
    )
    with hook, pytest.raises(InferenceFailed, match="NaN or infinity instead of a picture"):
        generate(planned)

    assert not planned.images[0].output.exists()


class counting:  # noqa: N801  # reads as a verb where it is used
    """Call `told` with the batch size of each forward pass of a module."""

    def __init__(self, module: torch.nn.Module, told: Callable[[int], Any]) -> None:
        self._module, self._told = module, told

    def __enter__(self) -> None:
        def tell(_: Any, arguments: Any, named: dict[str, Any]) -> None:
            first = named["hidden_states"] if "hidden_states" in named else arguments[0]
            self._told(len(first))

        self._hook = self._module.register_forward_pre_hook(tell, with_kwargs=True)

    def __exit__(self, *_: object) -> None:
        self._hook.remove()


def refusing_more_than(limit: int, sizes: list[int]) -> Callable[[int], None]:
    def tell(size: int) -> None:
        sizes.append(size)
        if size > limit:
            raise torch.OutOfMemoryError("made up")

    return tell


def failing_at(number: int, calls: list[int]) -> Callable[[int], None]:
    def tell(size: int) -> None:
        calls.append(size)
        if len(calls) == number:
            raise torch.OutOfMemoryError("made up")

    return tell
