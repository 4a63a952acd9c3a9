"""The base model's recorded paths, against plain Euler loops that share no code with glance."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from plain_loops import SIDE, decode, follow, furthest
from safetensors.torch import load_file

from glance.core.errors import InferenceFailed
from glance.core.events import Event, SamplingStep
from glance.models.families import FAMILIES, Family, Latents, find_family
from glance.sampling.generate import load_planned
from glance.sampling.pipeline.sample import VerbatimEulerScheduler
from glance.sampling.pipeline.trajectory import PathRecorder, Recorded, as_grid, record_paths
from glance.sampling.settings import SampleSettings
from glance.schedule.options import ScheduleOptions
from glance.training.distillation import DistillationPlan, plan_distillation
from glance.training.recording import STATES, is_recorded, record
from glance.training.request import DistillRequest

STEPS = 6
PROMPTS = ("a lighthouse", "a lighthouse at night")


@dataclass(frozen=True)
class Ready:
    """A tiny model of one family, what is planned to be recorded of it, and the model again."""

    plan: DistillationPlan
    sampler: Any
    plain: Any
    reference: Image.Image | None

    @property
    def family(self) -> Family:
        return self.plan.family

    @property
    def pictures(self) -> list[SampleSettings]:
        """Two noises of one prompt, and another prompt."""
        return [one.settings for one in self.plan.paths[:3]]

    @property
    def teacher(self) -> tuple[float, ...]:
        return self.plan.sigmas[SIDE, SIDE]

    def record(
        self, pictures: Sequence[SampleSettings], kept: Sequence[float], **changes: Any
    ) -> list[Recorded]:
        usual = {"teacher": self.teacher, "batch_size": 1, "on_step": lambda _: None}
        return list(record_paths(self.sampler, pictures, kept=kept, **{**usual, **changes}))

    def follow(self, one: SampleSettings) -> list[torch.Tensor]:
        """By hand: (1, ...) at each of the teacher's sigmas and at 0, packed."""
        return follow(
            self.family.name,
            self.plain,
            one.prompt,
            seed=one.seed,
            guidance=self.family.guidance.slow,
            sigmas=self.teacher,
            reference=self.reference,
        )

    def unpack(self, packed: torch.Tensor, *, height: int = SIDE, width: int = SIDE) -> Any:
        """The pipeline's own way from what its scheduler sees to (1, channels, rows, columns)."""
        match self.family.latents:
            case Latents.GRID:
                return packed
            case Latents.TOKENS_FROM_GRID:
                ids = self.plain._prepare_latent_ids(torch.empty(1, 1, height // 16, width // 16))
                return self.plain._unpack_latents_with_ids(packed, ids)
        size = {"height": height, "width": width}
        if self.family.name != "krea2":
            size["vae_scale_factor"] = self.plain.vae_scale_factor
        grid = self.plain._unpack_latents(packed, **size)
        return grid[:, :, 0] if grid.ndim == 5 else grid  # one frame


@pytest.fixture(scope="module")
def make_ready(
    tiny: Callable[[str], Path], reference: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Ready]:
    @cache
    def make(name: str) -> Ready:
        edits = find_family(name).edits
        plan = plan_distillation(
            DistillRequest(
                model=str(tiny(name)),
                family=name,
                run=tmp_path_factory.mktemp(name) / "run",
                prompts=PROMPTS,
                noises=2,
                sizes=(f"{SIDE}x{SIDE}",),
                schedule=ScheduleOptions(teacher_steps=STEPS),
                reference=reference if edits else None,
                device="cpu",
            )
        )
        plain = DiffusionPipeline.from_pretrained(tiny(name))
        return Ready(
            plan, load_planned(plan.generation), plain, Image.open(reference) if edits else None
        )

    return make


@pytest.fixture(params=FAMILIES)
def ready(request: pytest.FixtureRequest, make_ready: Callable[[str], Ready]) -> Ready:
    return make_ready(request.param)


def test_the_states_of_every_step_are_those_of_a_plain_loop(ready: Ready) -> None:
    one = ready.pictures[0]

    (recorded,) = ready.record([one], (*ready.teacher, 0.0))

    assert not isinstance(ready.sampler.pipeline.scheduler, VerbatimEulerScheduler), "it is left"
    passed = ready.follow(one)
    assert recorded.states.dtype == torch.float32
    assert torch.equal(recorded.states, torch.cat([ready.unpack(x) for x in passed]))
    picture = decode(ready.family.name, ready.plain, passed[-1])
    assert recorded.image.tobytes() == picture.tobytes()
    (own,) = ready.sampler.sample_base([one], steps=STEPS)
    assert furthest(recorded.image, own.images[0].image) <= 1


def test_a_state_between_two_steps_lies_on_the_line(ready: Ready) -> None:
    one, kept = ready.pictures[0], ready.plan.kept_sigmas

    (recorded,) = ready.record([one], kept)

    passed = [ready.unpack(x)[0] for x in ready.follow(one)]
    wanted = [on_the_line(passed, (*ready.teacher, 0.0), sigma) for sigma in kept]
    torch.testing.assert_close(recorded.states, torch.stack(wanted), rtol=1e-6, atol=1e-6)
    assert (len(kept), kept[0], kept[-1]) == (5, 1, 0)
    assert torch.equal(recorded.states[0], passed[0]), "it does not begin with the noise"
    assert torch.equal(recorded.states[-1], passed[-1])
    assert not set(kept[1:-1]) <= set(ready.teacher), "none of them lies between two steps"


def on_the_line(passed: list[torch.Tensor], sigmas: Sequence[float], sigma: float) -> torch.Tensor:
    """Where the straight line between two of the states `passed` at `sigmas` is at `sigma`."""
    after = next(number for number, one in enumerate(sigmas) if one <= sigma)
    if sigmas[after] == sigma:
        return passed[after]
    here, there = sigmas[after - 1], sigmas[after]
    share = (sigma - here) / (there - here)
    return (passed[after - 1].double() * (1 - share) + passed[after].double() * share).float()


def test_a_batch_gives_what_each_path_gives_alone_in_the_order_asked_for(ready: Ready) -> None:
    pictures, kept, told = ready.pictures, ready.plan.kept_sigmas, []
    alone = [ready.record([one], kept)[0] for one in pictures]

    together = ready.record(pictures[::-1], kept, batch_size=4, on_step=told.append)[::-1]

    assert [one.settings for one in together] == pictures
    assert sum(told) == len(pictures) * STEPS
    assert (max(told) > 1) != ready.family.edits, "neighbours did not share a batch"
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one.states, other.states, rtol=1e-4, atol=1e-4)
        assert furthest(one.image, other.image) <= 1
        assert other.states.is_contiguous(), "whoever writes it would write it in another order"
    assert len({one.states.numpy().tobytes() for one in alone}) == len(pictures)


def test_the_grid_is_what_the_pipeline_unpacks_for_its_vae(ready: Ready) -> None:
    height, width = 64, 96
    shape = (2, 16, height // 8, width // 8)
    if ready.family.latents is not Latents.GRID:
        shape = (2, height // 16 * (width // 16), 64)
    packed = torch.randn(shape)

    grid = as_grid(packed, ready.family, height, width)

    own = torch.cat([ready.unpack(one[None], height=height, width=width) for one in packed])
    assert torch.equal(grid, own)


@pytest.fixture
def flux(make_ready: Callable[[str], Ready]) -> Ready:
    return make_ready("flux")


def test_an_interrupted_recording_is_continued_path_by_path(flux: Ready) -> None:
    plan = replace(flux.plan, generation=replace(flux.plan.generation, batch_size=1))
    steps: list[int] = []

    def note(event: Event) -> None:
        if isinstance(event, SamplingStep):
            steps.append(event.total)

    def stop_in_the_second(event: Event) -> None:
        note(event)
        if len(steps) > STEPS:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record(plan, stop_in_the_second, sampler=flux.sampler)
    assert [is_recorded(plan, one) for one in plan.paths] == [True, False, False, False]
    first = plan.paths[0].recording(plan.run)
    before = first.stat()
    steps.clear()
    record(plan, note, sampler=flux.sampler)

    assert steps == [3 * STEPS] * 3 * STEPS
    assert first.stat() == before
    assert all(is_recorded(plan, one) for one in plan.paths)
    for one in plan.paths:
        (alone,) = flux.record([one.settings], plan.kept_sigmas)
        assert torch.equal(load_file(one.recording(plan.run))[STATES], alone.states)
        assert Image.open(one.picture(plan.run)).tobytes() == alone.image.tobytes()


def test_nan_is_no_path(flux: Ready) -> None:
    hook = flux.sampler.pipeline.transformer.register_forward_hook(
        lambda _module, _given, output: (output[0] * torch.nan,)
    )
    with hook, pytest.raises(InferenceFailed, match="NaN or infinity instead of an image"):
        flux.record(flux.pictures[:1], (0.0,))


@pytest.mark.parametrize("asked", [{"sigmas": [1.0, 0.9]}, {"num_inference_steps": 10}], ids=str)
def test_sigmas_that_do_not_fall_to_the_end_or_are_not_given_are_refused(asked: Any) -> None:
    scheduler = VerbatimEulerScheduler.ending_at(0.95, like=VerbatimEulerScheduler())
    with pytest.raises(ValueError, match=r"fall strictly|explicit sigmas"):
        scheduler.set_timesteps(**asked)


def test_in_half_precision_the_path_itself_is_not_rounded() -> None:
    told: list[None] = []
    recorder = PathRecorder.ending_at(0.0, like=VerbatimEulerScheduler())
    sigmas = [1 - step / 50 for step in range(50)]
    recorder.set_timesteps(sigmas=sigmas)
    recorder.keep([1.0, 0.0], lambda: told.append(None))
    noise, velocity = torch.randn(2, 3).bfloat16(), torch.randn(2, 3).bfloat16()

    sample = noise
    for timestep in recorder.timesteps:
        (sample,) = recorder.step(velocity, timestep, sample, return_dict=False)

    begin, end = recorder.states
    assert torch.equal(begin, noise.float())
    torch.testing.assert_close(end, noise.float() - velocity.float(), rtol=0, atol=1e-5)
    assert torch.equal(sample, end.bfloat16()), "the model is shown the state, rounded"
    assert len(told) == len(sigmas)
