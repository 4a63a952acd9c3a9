"""Two-phase sampling with a loaded diffusers pipeline. What happens to a batch of images:

1. Each distinct prompt is encoded once, for up to `_ROUND` images at a time.
2. Slow phase: the slow LoRA, from each image's own noise down to the fast phase's first sigma.
3. The latents are handed over.
4. Fast phase: the fast LoRA, from there to sigma 0.
5. The images are decoded.

Each phase is one call of the pipeline itself, so that a family's habits are diffusers' own: one
forward pass a sigma, one decode an image.
"""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import batched
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from glance.core.errors import InferenceFailed, InputError, SampleError
from glance.core.events import EventSink, SamplingStep
from glance.core.files import replacing
from glance.core.phase import Phase
from glance.core.pictures import DECODER_ERRORS, open_picture, to_rgb
from glance.models.families import Family, Latents, Negative, families_of_pipeline
from glance.sampling.pipeline.adapters import Loras, ResidentLoras
from glance.sampling.pipeline.encodings import Encoded, Encodings
from glance.sampling.pipeline.memory import (
    explaining_lack_of_memory,
    free_memory,
    is_lack_of_memory,
    staying_placed,
)
from glance.sampling.provenance import KEY, TENSOR, Record
from glance.sampling.settings import SampleSettings
from glance.schedule.lists import Schedule

# So many prompts are encoded before the first image of them is begun: where memory is short the
# text encoders come to the device once for all of them, and their embeddings take little room.
_ROUND: Final = 32


@dataclass(frozen=True, slots=True)
class GeneratedImage:
    """One image, and the latents that it came from."""

    settings: SampleSettings
    image: Image.Image
    latents: torch.Tensor
    """As they were handed over, (1, ...): see families.Latents. Of the base alone: empty."""
    final: torch.Tensor
    """At sigma 0, what was decoded: (1, ...) likewise, float32 on the CPU."""
    preview: Image.Image | None = None
    """The model's estimate of the image at the hand-over, if it was asked for."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Images that were sampled together, the sigmas that were run, and what each part took."""

    images: tuple[GeneratedImage, ...]
    sigmas: Mapping[Phase, tuple[float, ...]]
    seconds: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Reference:
    """An image to edit, and the area at which it is shown to the transformer, in pixels."""

    picture: Image.Image
    area: int


type Images = Sequence[SampleSettings]
type Call = Mapping[str, Any]
"""What the pipeline is called with: encoded prompts, size, the image to edit."""
type BatchSampler[T] = Callable[[Images, Call, Reference | None], T]


@dataclass(slots=True)
class TwoPhase:
    """A diffusers pipeline, its family, the schedule, and the LoRAs that are loaded into it."""

    pipeline: Any
    family: Family
    schedule: Schedule
    loras: Loras = field(default_factory=ResidentLoras)
    encodings: Encodings | None = None
    """What is kept of prompts while LoRAs are exchanged in the pipeline; None: they are not."""

    def sample_each(
        self,
        images: Images,
        on_event: EventSink = lambda _: None,
        *,
        batch_size: int = 1,
        previews: bool = False,
        start: torch.Tensor | None = None,
    ) -> Iterator[Batch]:
        """Yield the images in their order, as soon as each batch is done.

        Each image's noise comes from a CPU generator of its own, so that a seed means the same
        image on every device, in every order and batch. Neighbours with equal sizes, guidance and
        prompt lengths share a batch; one that memory does not suffice for is halved. With `start`,
        latents of one image, the slow phase is left out. The pipeline's scheduler is put back
        afterwards. Raises InferenceFailed when memory does not suffice for one image, SampleError
        when a reference is gone.
        """
        steps = {phase: len(self.schedule.phase(phase).timesteps) for phase in Phase}
        if start is not None:
            steps[Phase.SLOW] = 0
        each = sum(steps.values())
        finished = 0

        def sample(settings: Images, call: Call, reference: Reference | None) -> Batch:
            def on_step(phase: Phase, step: int) -> None:
                before = steps[Phase.SLOW] if phase is Phase.FAST else 0
                done = finished + len(settings) * (before + step)
                on_event(SamplingStep(phase, step, steps[phase], done, len(images) * each))

            return self._sample(settings, call, reference, on_step, previews=previews, start=start)

        limit = 1 if start is not None else batch_size
        for batch, encoding in self.each_batch(images, sample, limit=limit):
            finished += len(batch.images) * each
            yield Batch(batch.images, batch.sigmas, {"encode": encoding, **batch.seconds})

    def sample_one(self, settings: SampleSettings) -> Batch:
        """Return one image; see `sample_each`."""
        (batch,) = self.sample_each([settings])
        return batch

    def sample_base(self, images: Images, *, steps: int, batch_size: int = 1) -> Iterator[Batch]:
        """Sample with the base model alone, as diffusers does it: its own schedule of `steps`.

        The same seed starts from the same noise as two phases do; the slow phase's guidance is
        used throughout. Batches are made, and halved, as in `sample_each`, which says what is
        raised.
        """

        def sample(settings: Images, call: Call, reference: Reference | None) -> Batch:
            began = now()
            with self.sampling(reference):
                self.loras.leave(self.pipeline)
                guided = {**call, **self.guided(settings[0], Phase.SLOW), **noise_of(settings)}
                done = _call_pipeline(self.pipeline, {**guided, "num_inference_steps": steps})
            seconds = {"base": done.last_step - began, "decode": now() - done.last_step}
            parts = zip(settings, done.images, _each(done.latents), strict=True)
            images = (GeneratedImage(one, it, torch.empty(0), final) for one, it, final in parts)
            return Batch(tuple(images), {}, seconds)

        for batch, encoding in self.each_batch(images, sample, limit=batch_size):
            yield Batch(batch.images, {}, {"encode": encoding, **batch.seconds})

    def each_batch[T](
        self, images: Images, sample: BatchSampler[T], *, limit: int
    ) -> Iterator[tuple[T, float]]:
        """Yield what `sample` makes of each batch, and the seconds that encoding took before it.

        A batch has at most `limit` images, one where each has a reference. One that memory does
        not suffice for is halved, and so are those after it.
        """
        limit = 1 if self.family.edits else limit
        for some in batched(images, _ROUND):
            began = now()
            waiting = deque(gather(some, self._encode(some), limit))
            seconds = now() - began
            while waiting:
                batch = waiting.popleft()
                if len(batch) > limit:
                    waiting.extendleft(reversed(list(batched(batch, limit))))
                    continue
                one = batch[0][0]
                size = f"{one.width}x{one.height} pixels"
                done = None
                try:
                    with explaining_lack_of_memory(size) if len(batch) == 1 else nullcontext():
                        reference = open_reference(one)
                        call = self._call(batch, reference)
                        done = sample([each for each, _ in batch], call, reference)
                except RuntimeError as exc:
                    if not is_lack_of_memory(exc):
                        raise
                if done is None:  # tried again out here: in there the error holds the tensors
                    limit = (len(batch) + 1) // 2
                    waiting.appendleft(batch)
                    free_memory()
                    continue
                yield done, seconds
                seconds = 0.0

    def prepare(self, images: Images, *, batch_size: int) -> list[tuple[Images, Call]]:
        """Encode the prompts; return each batch with what the pipeline is called with for it.

        Guidance, noise and sigmas are left. `batch_size` is 1 for families that edit.
        """
        batches = gather(images, self._encode(images), batch_size)
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
        # weights that are moved in inference mode are of use in no other: PEFT refuses to load
        # LoRAs beside them
        mode = torch.inference_mode() if self.encodings is None else torch.no_grad()
        try:
            with mode, shown_at_its_area(self.pipeline, reference):
                yield
        finally:
            self.pipeline.scheduler = scheduler

    def _sample(
        self,
        settings: Images,
        call: Call,
        reference: Reference | None,
        on_step: Callable[[Phase, int], None],
        *,
        previews: bool,
        start: torch.Tensor | None,
    ) -> Batch:
        one = settings[0]
        estimates: Sequence[Image.Image | None] = [None] * len(settings)
        slow_sigmas: tuple[float, ...] = ()
        began = now()
        with self.sampling(reference), staying_placed(self.pipeline):
            if start is None:
                kind = {"output_type": "pil" if previews else "latent"}
                begin = {**call, **noise_of(settings), **kind}
                slow = self._run(Phase.SLOW, one, begin, on_step, shows_estimate=previews)
                start, slow_sigmas = slow.latents, slow.sigmas
                estimates = slow.images if previews else estimates
            handed_over = now()
            latents = as_input(start, self.family, height=one.height, width=one.width)
            going_on = {**call, "latents": latents, "output_type": "pil"}
            fast = self._run(Phase.FAST, one, going_on, on_step)
        seconds = {
            "slow": handed_over - began,
            "fast": fast.last_step - handed_over,
            "decode": now() - fast.last_step,
        }
        handed = torch.split(start.cpu(), 1)
        parts = zip(settings, fast.images, handed, _each(fast.latents), estimates, strict=True)
        images = tuple(GeneratedImage(*each) for each in parts)
        return Batch(images, {Phase.SLOW: slow_sigmas, Phase.FAST: fast.sigmas}, seconds)

    def _run(
        self,
        phase: Phase,
        settings: SampleSettings,
        call: Call,
        on_step: Callable[[Phase, int], None],
        *,
        shows_estimate: bool = False,
    ) -> "_Called":
        """Run a phase with its LoRA along exactly its sigmas.

        With `shows_estimate` the pipeline decodes the model's estimate of the image after the last
        step, x - sigma * velocity, in place of the noisy latents; those are returned beside.
        """
        if phase in settings.loras:
            self.loras.use(self.pipeline, phase, scale=settings.scale(phase))
        else:
            self.loras.leave(self.pipeline)
        part, own = self.schedule.phase(phase), self.pipeline.scheduler
        self.pipeline.scheduler = scheduler = VerbatimEulerScheduler.ending_at(part.end_sigma, own)
        scheduler.keeps_estimate = shows_estimate
        steps = {"sigmas": list(part.sigmas), "num_inference_steps": len(part.sigmas)}
        whole = {**call, **self.guided(settings, phase), **steps}
        return _call_pipeline(self.pipeline, whole, lambda step: on_step(phase, step))

    def _encode(self, images: Images) -> list[Encoded]:
        """Encode each distinct prompt once; what decides an encoding is its key."""
        known: dict[Any, Encoded] = {}
        found = []
        with self.sampling(), explaining_lack_of_memory("the text encoders"):
            for one in images:
                texts = (one.prompt, one.negative_prompt, one.reference)
                key = (*texts, one.needs_negative(self.family))
                if key not in known:
                    kept = self.encodings and self.encodings.find(key)
                    known[key] = kept or encode(self.pipeline, self.family, one)
                    if self.encodings and not kept:
                        self.encodings.keep(key, known[key])
                found.append(known[key])
        return found

    def _call(self, batch: "_Gathered", reference: Reference | None) -> Call:
        """Return what both phases are given."""
        settings = batch[0][0]
        if self.family.has_fixed_area:
            # a little more than the area, so that rounding down does not lose a row of pixels
            side = (settings.width * settings.height) ** 0.5 * (1 + 1e-6)
            self.pipeline.default_sample_size = side / self.pipeline.vae_scale_factor
        size = {"width": settings.width, "height": settings.height}
        images = {} if reference is None else {"image": [reference.picture]}
        prompts = _join(self.family, [encoded for _, encoded in batch])
        return {**prompts, **size, **images, **self.family.sampling_options}


def family_of(pipeline: Any) -> Family:
    """Return the family of a loaded diffusers pipeline; raise SettingsError if there is none."""
    found = families_of_pipeline(type(pipeline).__name__)
    config = pipeline.transformer.config
    return next((row for row in found if row.has_transformer(config)), found[0])


# --- batches -------------------------------------------------------------------------------------

type _Gathered = Sequence[tuple[SampleSettings, Encoded]]


def gather(images: Images, encoded: Sequence[Encoded], limit: int) -> Iterator[_Gathered]:
    """Yield all images in their order, at most `limit` that can share a batch at a time.

    Neighbours can that differ in nothing but prompt and noise.
    """
    batch: list[tuple[SampleSettings, Encoded]] = []
    for one in zip(images, encoded, strict=True):
        if batch and (len(batch) == limit or _likeness(*one) != _likeness(*batch[0])):
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch


def _likeness(settings: SampleSettings, encoded: Encoded) -> tuple[Any, ...]:
    alike = settings.model_dump(exclude={"prompt", "negative_prompt", "seed"})
    shapes = (
        (name, "list" if isinstance(value, list) else tuple(value.shape))
        for name, value in sorted(encoded.items())
    )
    return (*alike.values(), *shapes)


def noise_of(settings: Images) -> dict[str, Any]:
    """Return a generator an image, as an argument of the pipeline."""
    return {"generator": [torch.Generator("cpu").manual_seed(one.seed) for one in settings]}


# --- one call of the pipeline --------------------------------------------------------------------


class VerbatimEulerScheduler(FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]  # untyped
    """Euler along exactly the sigmas it is given, down to a given end.

    diffusers' own appends a terminal 0 to any list, shifts given sigmas once more (FLUX by the
    image's size, SD3 by 3) and stretches Qwen-Image's to end at 0.02. For a schedule that was
    trained on, each of these is wrong: the model would see noise levels it was not trained for.

    One instance serves one phase: `end_sigma` is where it leaves the latents, the next phase's
    first sigma, or 0 for the finished image. Each step is x + (next sigma - sigma) * velocity.
    """

    keeps_estimate = False
    """Whether `step` also reckons the model's estimate of the finished image."""
    estimate: torch.Tensor
    """Of the last step: x - sigma * velocity, float32, in the latents' shape."""
    _end_sigma = 0.0

    @classmethod
    def ending_at(
        cls, end_sigma: float, like: FlowMatchEulerDiscreteScheduler
    ) -> "VerbatimEulerScheduler":
        """Return a scheduler with the config of `like` that ends at `end_sigma` (0-1)."""
        scheduler: VerbatimEulerScheduler = cls.from_config(like.config)
        scheduler._end_sigma = float(end_sigma)
        return scheduler

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,  # noqa: ARG002 - the names that pipelines look for
        device: str | torch.device | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,  # noqa: ARG002
        timesteps: Sequence[float] | None = None,
    ) -> None:
        """Take `sigmas` (0-1, strictly decreasing) as they are.

        `mu` is what pipelines hand over for the shift; there is none. Raises ValueError without
        sigmas, with timesteps, or when a value does not lie above the next.
        """
        if sigmas is None or timesteps is not None:
            raise ValueError("this scheduler runs explicit sigmas: pass sigmas=[...] alone")
        path = torch.tensor([*map(float, sigmas), self._end_sigma], dtype=torch.float32)
        if not bool((path[:-1] > path[1:]).all()):
            raise ValueError(f"sigmas must fall strictly to the end, got {path.tolist()}")
        self.num_inference_steps = len(path) - 1
        self.sigmas = path.to(device)
        self.timesteps = self.sigmas[:-1] * self.config.num_train_timesteps
        self._step_index: int | None = None
        self._begin_index: int | None = None

    def step(self, model_output: Any, timestep: Any, sample: Any, **options: Any) -> Any:
        """Step as diffusers does; see `keeps_estimate`."""
        stepped = super().step(model_output, timestep, sample, **options)
        if self.keeps_estimate:
            assert self._step_index is not None  # the step has counted itself
            sigma = self.sigmas[self._step_index - 1]
            self.estimate = sample.to(torch.float32) - sigma * model_output.to(torch.float32)
        return stepped


@dataclass(frozen=True, slots=True)
class _Called:
    """What a call leaves. Latents are as the family's callbacks see them: see families.Latents."""

    images: Any
    latents: torch.Tensor
    """After the last step: (images, ...)."""
    sigmas: tuple[float, ...]
    """As they were run; empty where the pipeline chose them."""
    last_step: float
    """When the last step was done: `now()`."""


def _call_pipeline(
    pipeline: Any, call: Call, on_step: Callable[[int], None] = lambda _: None
) -> _Called:
    """Call the pipeline; raise InferenceFailed for NaN, which would be written as a black image."""
    scheduler, steps = pipeline.scheduler, call["num_inference_steps"]
    is_ours = isinstance(scheduler, VerbatimEulerScheduler)
    last_step, latents = 0.0, torch.empty(0)

    def after_step(_: Any, step: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        nonlocal last_step, latents
        last_step, latents = now(), tensors["latents"]
        on_step(step + 1)
        if is_ours and scheduler.keeps_estimate and step + 1 == steps:
            return {**tensors, "latents": scheduler.estimate.to(latents.dtype)}
        return tensors

    images = pipeline(**call, callback_on_step_end=after_step).images
    if not bool(torch.isfinite(latents).all()):
        raise InferenceFailed(
            "the model gave NaN or infinity instead of an image",
            hint="use --dtype bf16 or fp32, or a smaller --slow-scale or --fast-scale",
        )
    # float32's own shortest digits: 0.9791915, not the double next to it
    used = scheduler.sigmas[:-1].cpu().numpy() if is_ours else ()
    return _Called(images, latents, tuple(float(str(sigma)) for sigma in used), last_step)


def as_input(latents: torch.Tensor, family: Family, *, height: int, width: int) -> torch.Tensor:
    """Return what one call's last callback was given in the shape that the next call takes."""
    if family.latents is not Latents.TOKENS_FROM_GRID:
        return latents
    return latents.permute(0, 2, 1).reshape(len(latents), -1, height // 16, width // 16)


def now() -> float:
    """Return the time in seconds once the accelerator has done what was asked of it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _each(latents: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return those of each image, (1, ...), float32 on the CPU."""
    return torch.split(latents.to("cpu", torch.float32), 1)


# --- prompts -------------------------------------------------------------------------------------


def encode(pipeline: Any, family: Family, settings: SampleSettings) -> Encoded:
    """Run the text encoders: once, or twice where the negative prompt is encoded apart."""
    more: dict[str, Any] = dict(family.text.arguments)
    if (reference := open_reference(settings)) is not None:
        more["image"] = [_arrange_for_text(pipeline, reference)]

    def run(prompt: str) -> dict[str, Any]:
        outputs = pipeline.encode_prompt(prompt=prompt, device=pipeline._execution_device, **more)
        named = zip(family.text.outputs, outputs, strict=True)
        return {name: as_mask(name, value) for name, value in named if name is not None}

    def as_mask(name: str, value: Any) -> Any:
        is_mask = family.text.has_bool_masks and name.endswith("attention_mask")
        return value.bool() if is_mask and value is not None else value

    needs_negative = settings.needs_negative(family)
    is_together = family.text.negative is Negative.TOGETHER
    if is_together:
        more["do_classifier_free_guidance"] = needs_negative
        if settings.negative_prompt:
            more["negative_prompt"] = settings.negative_prompt
    arguments = run(settings.prompt)
    if needs_negative and not is_together:
        negative = run(settings.negative_prompt)
        arguments |= {f"negative_{name}": value for name, value in negative.items()}
    return {name: value for name, value in arguments.items() if value is not None}


def _join(family: Family, encoded: Sequence[Encoded]) -> dict[str, Any]:
    """Return the arguments for all images of a batch, in their order; shapes are equal."""
    if len(encoded) == 1:
        return dict(encoded[0])
    joined: dict[str, Any] = {}
    for name in encoded[0]:
        values = [one[name] for one in encoded]
        if isinstance(values[0], list):  # one entry an image, each as long as its prompt
            joined[name] = [entry for value in values for entry in value]
        else:
            joined[name] = torch.cat(values, dim=family.text.batch_axes.get(name, 0))
    return joined


# --- the image that a family which edits begins with ---------------------------------------------


def open_reference(settings: SampleSettings) -> Reference | None:
    """Return the image that the settings name, upright; None when they name none.

    Raises SampleError if it is no longer what was examined.
    """
    if settings.reference is None:
        return None
    try:
        with open_picture(settings.reference) as picture:
            return Reference(to_rgb(picture)[0], area=settings.reference_side**2)
    except DECODER_ERRORS as exc:
        raise SampleError(f"reference {settings.reference} can no longer be read: {exc}") from exc


def _arrange_for_text(pipeline: Any, reference: Reference) -> Image.Image:
    """Return the small copy that the text encoder reads beside the prompt, as diffusers makes it.

    See `QwenImageEditPlusPipeline.__call__`, which does so unless it is given embeddings.
    """
    module: Any = sys.modules[type(pipeline).__module__]
    picture = reference.picture
    ratio = picture.width / picture.height
    width, height = module.calculate_dimensions(module.CONDITION_IMAGE_SIZE, ratio)
    small: Image.Image = pipeline.image_processor.resize(picture, height, width)
    return small


@contextmanager
def shown_at_its_area(pipeline: Any, reference: Reference | None) -> Iterator[None]:
    """Let the pipeline scale references to the area of this one while the block runs.

    diffusers scales every one to a megapixel, whatever a LoRA was trained on, by a constant of the
    pipeline's module and no argument.
    """
    if reference is None:
        yield
        return
    module: Any = sys.modules[type(pipeline).__module__]
    usual = module.VAE_IMAGE_SIZE
    module.VAE_IMAGE_SIZE = reference.area
    try:
        yield
    finally:
        module.VAE_IMAGE_SIZE = usual


# --- handed-over latents as a file: see provenance.read_handover for what it is ------------------


def save_latents(latents: torch.Tensor, path: Path, record: Record) -> None:
    """Write the latents of one image, (1, ...), atomically; raises OSError."""
    with replacing(path) as temporary:
        metadata = {KEY: record.model_dump_json()}
        save_file({TENSOR: latents.contiguous()}, temporary, metadata=metadata)


def load_latents(path: Path) -> torch.Tensor:
    """Return the latents of one image, (1, ...), on the CPU; raises InputError."""
    try:
        latents = load_file(path)[TENSOR]
    except (OSError, SafetensorError, KeyError) as exc:
        raise InputError(f"{path} can no longer be read: {exc}") from exc
    if not bool(torch.isfinite(latents).all()):
        raise InputError(f"{path} holds NaN or infinity", hint="make it anew with --save-latents")
    return latents
