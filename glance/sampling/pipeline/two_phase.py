"""Two-phase sampling: slow LoRA, hand-over of the latents, fast LoRA.

One model, one encoding a prompt, one forward pass a sigma, one decode a picture.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import torch
from PIL import Image

from glance.core.events import EventSink
from glance.core.phase import Phase
from glance.models.families import Family, families_of_pipeline
from glance.sampling.pipeline.batches import Batch, Painted, Pictures, gather, portions, text_of
from glance.sampling.pipeline.memory import explaining_lack_of_memory, is_lack_of_memory
from glance.sampling.pipeline.phases import PhaseOutput, as_input, run_own, run_phase
from glance.sampling.pipeline.placement import staying_placed
from glance.sampling.pipeline.progress import Clock, Counted
from glance.sampling.pipeline.reference import Reference, open_reference, shown_at_its_area
from glance.sampling.pipeline.switch import Loras, ResidentLoras
from glance.sampling.pipeline.text import Encoded, encode, join
from glance.sampling.settings import SampleSettings
from glance.schedule.lists import Schedule

# So many prompts are encoded before the first picture of them is begun: where memory is short the
# text encoders come to the device once for all of them, and their embeddings take little room.
_ROUND: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """What else may be asked of a sampling."""

    previews: bool = False
    start: torch.Tensor | None = None
    """Handed-over latents to begin the fast phase from, in place of the slow phase."""
    batch_size: int = 1


_NO_EXTRAS: Final = Extras()
Sample = Callable[[Pictures, Counted], Batch]
"""Paints one batch."""


@dataclass(slots=True)
class TwoPhase:
    """A diffusers pipeline, its family, the schedule, and the LoRAs that are loaded into it."""

    pipeline: Any
    family: Family
    schedule: Schedule
    loras: Loras = field(default_factory=ResidentLoras)

    def sample_each(
        self,
        pictures: Sequence[SampleSettings],
        on_event: EventSink = lambda _: None,
        *,
        extras: Extras = _NO_EXTRAS,
    ) -> Iterator[Batch]:
        """Yield the pictures in their order, as soon as each batch is done.

        Each picture's noise comes from a CPU generator of its own, so that a seed means the same
        picture on every device, in every order and batch. Neighbours with equal sizes, guidance
        and prompt lengths share a batch; one that memory does not suffice for is halved. The
        pipeline's scheduler is put back afterwards. Raises InferenceFailed when memory does not
        suffice for one picture, SampleError when a reference is gone.
        """
        counted = Counted(self._forwards(pictures, extras), on_event)
        yield from self._sample_all(
            pictures, counted, partial(self._sample, extras), limit=self.batch_limit(extras)
        )

    def sample_one(self, settings: SampleSettings) -> Batch:
        """Return one picture; see `sample_each`."""
        (batch,) = self.sample_each([settings])
        return batch

    def sample_base(
        self, pictures: Sequence[SampleSettings], *, steps: int, batch_size: int = 1
    ) -> Iterator[Batch]:
        """Sample with the base model alone, as diffusers does it: its own schedule of `steps`.

        The same seed starts from the same noise as two phases do; the slow phase's guidance is
        used throughout. Batches are made, and halved, as in `sample_each`, which says what is
        raised.
        """
        counted = Counted(len(pictures) * steps, lambda _: None)
        yield from self._sample_all(
            pictures,
            counted,
            partial(self._sample_own, steps),
            limit=self.batch_limit(Extras(batch_size=batch_size)),
        )

    def batch_limit(self, extras: Extras) -> int:
        """Return how many pictures may share a batch: one, where each has a reference."""
        return 1 if self.family.edits or extras.start is not None else extras.batch_size

    def prepare(
        self, pictures: Sequence[SampleSettings], *, batch_size: int
    ) -> list[tuple[Sequence[SampleSettings], dict[str, Any]]]:
        """Encode the prompts; return each batch with what the pipeline is called with for it.

        Guidance, noise and sigmas are left. `batch_size` is 1 for families that edit.
        """
        with self.sampling(), explaining_lack_of_memory("the text encoders"):
            batches = list(gather(pictures, self._encode(pictures), batch_size))
        return [
            ([one for one, _ in batch], self._call(batch, open_reference(batch[0][0])))
            for batch in batches
        ]

    def guided(self, settings: SampleSettings, phase: Phase) -> dict[str, float]:
        """Return the guidance of a phase, as arguments of the pipeline."""
        guidance = self.family.guidance
        call = {guidance.argument: settings.guidance(phase)}
        if settings.true_cfg is not None and guidance.true_cfg is not None:
            call[guidance.true_cfg] = settings.true_cfg
        return call

    @contextmanager
    def sampling(self, reference: Reference | None = None) -> Iterator[None]:
        """Sample in this block: afterwards the pipeline has its own scheduler again."""
        scheduler = self.pipeline.scheduler
        try:
            with torch.inference_mode(), shown_at_its_area(self.pipeline, reference):
                yield
        finally:
            self.pipeline.scheduler = scheduler

    def _sample_all(
        self, pictures: Sequence[SampleSettings], counted: Counted, sample: Sample, *, limit: int
    ) -> Iterator[Batch]:
        """Encode the prompts of some pictures at a time, and yield what `sample` makes of them."""
        for some in portions(pictures, _ROUND):
            clock = Clock()
            with self.sampling(), explaining_lack_of_memory("the text encoders"):
                encoded = self._encode(some)
            clock.lap("encode")
            for batch in gather(some, encoded, limit):
                for done in self._sample_halving(batch, counted, sample):
                    yield Batch(done.pictures, done.sigmas, {**clock.seconds, **done.seconds})
                    clock.seconds = {"encode": 0.0}

    def _sample_halving(self, batch: Pictures, counted: Counted, sample: Sample) -> Iterator[Batch]:
        if len(batch) > counted.most:
            for part in portions(batch, counted.most):
                yield from self._sample_halving(part, counted, sample)
            return
        size = f"{batch[0][0].width}x{batch[0][0].height} pixels"
        before = counted.done
        try:
            with explaining_lack_of_memory(size) if len(batch) == 1 else nullcontext():
                done = sample(batch, counted)
        except RuntimeError as exc:
            if not is_lack_of_memory(exc):
                raise
            done = None  # tried again outside: here the error still holds the tensors
        if done is not None:
            yield done
            return
        counted.done, counted.most = before, (len(batch) + 1) // 2
        torch.cuda.empty_cache()
        yield from self._sample_halving(batch, counted, sample)

    def _sample(self, extras: Extras, batch: Pictures, counted: Counted) -> Batch:
        settings = [one for one, _ in batch]
        reference = open_reference(settings[0])
        previews: Sequence[Image.Image | None] = [None] * len(batch)
        slow_sigmas: tuple[float, ...] = ()
        clock = Clock()
        with self.sampling(reference), staying_placed(self.pipeline):
            call = self._call(batch, reference)
            if extras.start is None:
                slow = self._slow(call, settings, counted, previews=extras.previews)
                latents, slow_sigmas = slow.latents, slow.sigmas
                previews = slow.images if extras.previews else previews
            else:
                latents = extras.start
            clock.lap("slow")
            fast = self._fast(call, settings, counted, latents)
            clock.lap("fast", until=fast.last_step)
        clock.lap("decode")
        handed_over = torch.split(latents.cpu(), 1)
        parts = (settings, fast.images, handed_over, _each(fast.latents), previews)
        return Batch(
            tuple(Painted(*one) for one in zip(*parts, strict=True)),
            {Phase.SLOW: slow_sigmas, Phase.FAST: fast.sigmas},
            clock.seconds,
        )

    def _sample_own(self, steps: int, batch: Pictures, _: Counted) -> Batch:
        settings = [one for one, _ in batch]
        reference = open_reference(settings[0])
        clock = Clock()
        with self.sampling(reference):
            self.loras.leave(self.pipeline)
            call = {**self._call(batch, reference), **self.guided(settings[0], Phase.SLOW)}
            done = run_own(self.pipeline, {**call, **noise_of(settings)}, steps=steps)
        clock.lap("base", until=done.last_step)
        clock.lap("decode")
        parts = zip(settings, done.images, _each(done.latents), strict=True)
        painted = (Painted(one, image, torch.empty(0), final) for one, image, final in parts)
        return Batch(tuple(painted), {}, clock.seconds)

    def _slow(
        self,
        call: Mapping[str, Any],
        settings: Sequence[SampleSettings],
        counted: Counted,
        *,
        previews: bool,
    ) -> PhaseOutput:
        self._switch(Phase.SLOW, settings[0])
        kind = {"output_type": "pil" if previews else "latent"}
        return run_phase(
            self.pipeline,
            {**call, **self.guided(settings[0], Phase.SLOW), **noise_of(settings), **kind},
            self.schedule.phase(Phase.SLOW),
            counted.steps(Phase.SLOW, self._steps(Phase.SLOW), pictures=len(settings)),
            shows_estimate=previews,
        )

    def _fast(
        self,
        call: Mapping[str, Any],
        settings: Sequence[SampleSettings],
        counted: Counted,
        latents: torch.Tensor,
    ) -> PhaseOutput:
        one = settings[0]
        self._switch(Phase.FAST, one)
        start = as_input(latents, self.family, height=one.height, width=one.width)
        return run_phase(
            self.pipeline,
            {**call, **self.guided(one, Phase.FAST), "latents": start, "output_type": "pil"},
            self.schedule.phase(Phase.FAST),
            counted.steps(Phase.FAST, self._steps(Phase.FAST), pictures=len(settings)),
        )

    def _switch(self, phase: Phase, settings: SampleSettings) -> None:
        if phase in settings.loras:
            self.loras.use(self.pipeline, phase, scale=settings.scale(phase))
        else:
            self.loras.leave(self.pipeline)

    def _encode(self, pictures: Sequence[SampleSettings]) -> list[Encoded]:
        """Encode each distinct prompt once."""
        known: dict[Any, Encoded] = {}
        for one in pictures:
            if text_of(one) not in known:
                known[text_of(one)] = encode(self.pipeline, self.family, one, open_reference(one))
        return [known[text_of(one)] for one in pictures]

    def _call(self, batch: Pictures, reference: Reference | None) -> dict[str, Any]:
        """Return what both phases are given: the encoded prompts, the size, what is edited."""
        settings = batch[0][0]
        if self.family.has_fixed_area:
            # a little more than the area, so that rounding down does not lose a row of pixels
            side = (settings.width * settings.height) ** 0.5 * (1 + 1e-6)
            self.pipeline.default_sample_size = side / self.pipeline.vae_scale_factor
        size = {"width": settings.width, "height": settings.height}
        images = {} if reference is None else {"image": [reference.picture]}
        prompts = join(self.family, [encoded for _, encoded in batch])
        return {**prompts, **size, **images, **self.family.sampling_options}

    def _forwards(self, pictures: Sequence[SampleSettings], extras: Extras) -> int:
        """Return the steps of all pictures together."""
        phases = tuple(Phase) if extras.start is None else (Phase.FAST,)
        return len(pictures) * sum(map(self._steps, phases))

    def _steps(self, phase: Phase) -> int:
        return len(self.schedule.phase(phase).timesteps)


def family_of(pipeline: Any) -> Family:
    """Return the family of a loaded diffusers pipeline; raise SettingsError if there is none."""
    found = families_of_pipeline(type(pipeline).__name__)
    return next(
        (row for row in found if row.has_transformer(pipeline.transformer.config)), found[0]
    )


def noise_of(settings: Sequence[SampleSettings]) -> dict[str, Any]:
    """Return a generator a picture, as an argument of the pipeline."""
    return {"generator": [torch.Generator("cpu").manual_seed(one.seed) for one in settings]}


def _each(latents: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return those of each picture, (1, ...), float32 on the CPU."""
    return torch.split(latents.to("cpu", torch.float32), 1)
