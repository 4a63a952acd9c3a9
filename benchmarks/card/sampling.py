"""What sampling takes of a card: the whole, each way to fit it, recording a teacher, compiling.

Each yields a result as soon as it has one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from benchmarks.card.figures import COMPILING, MODES, SAMPLING, TEN_STEPS
from benchmarks.card.models import Situation, build, clock_of, lacks_memory
from benchmarks.inference.meter import Meter
from benchmarks.inference.ways import PROMPT, Studio, paint, peak_memory
from benchmarks.models import RANK
from benchmarks.result import Column, Figure, Goal, Ratio, Result, Row, summarise
from benchmarks.rounds import Conditions, interleave
from glance.core.device import (
    Device,
    Memory,
    Quantize,
    activation_bytes,
    choose_memory,
    require_compiler,
    speed,
)
from glance.core.phase import Phase
from glance.models.families import find_family
from glance.sampling.pipeline.adapters import load_swapped
from glance.sampling.pipeline.glance_pipeline import GlancePipeline
from glance.sampling.pipeline.load import Loaded, compile_transformer
from glance.sampling.pipeline.memory import free_memory, part_sizes
from glance.sampling.pipeline.trajectory import record_paths
from glance.sampling.settings import SampleSettings, resolve_sample_settings
from glance.schedule.lists import PRESETS, Schedule
from glance.schedule.shift import teacher_sigmas

CAPS: Final = (24, 16, 12)
"""Cards that a mode is held to, in GiB, the largest first."""
_NAMED: Final = ", ".join(map(str, CAPS))
_BATCHES: Final = (1, 2, 4, 8)
_ROUNDS: Final = 2
_TURNS: Final = 3
_SWITCHES: Final = 20
_DOES_NOT_FIT: Final = "does not fit"
_GIGA: Final = 1e9
_OTHERS: Final = 1e9  # bytes of a card that torch does not have: CUDA itself, a desktop
_NOMINAL: Final = 2  # GiB that a card has less than its name says
_BRIEF: Final = Schedule("two", (1000.0,), (500.0,))
SECONDS, PEAK, LOADED, FITS = "seconds", "GB at the peak", "GB after loading", "smallest card, GB"


# --- the card itself -----------------------------------------------------------------------------


def measure_speed(here: Situation) -> Iterator[Result]:
    """Multiply matrices in bf16, and copy from pinned and from ordinary system memory."""
    device, clock = here.device.value, clock_of(here.device)
    side, copied = (256, 2**20) if here.is_tiny else (8192, 2**30)
    one, other = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in "ab")
    ordinary = torch.ones(copied, dtype=torch.uint8)
    sources = {"copies, ordinary memory": ordinary}
    if here.device is Device.CUDA:
        sources["copies, pinned memory"] = ordinary.pin_memory()

    def fastest(work: Callable[[], Any]) -> float:
        taken = []
        for _ in range(5):  # the first is slow
            began = clock()
            work()
            taken.append(clock() - began)
        return min(taken)

    done = 2 * side**3 / fastest(lambda: one @ other)
    rows = [Row(name="matrix products in bf16", figures={_TERA: summarise([done / 1e12])})]
    for name, source in sources.items():
        pace = copied / fastest(partial(source.to, device, copy=True))
        rows.append(Row(name=name, figures={_GB_PER_SECOND: summarise([pace / _GIGA])}))
    said = speed(here.device)
    ratios = () if said is None else (Ratio(name=_SAID, figure=summarise([said / done])),)
    yield Result(
        name="card, its speed",
        compares=f"Matrices of {side} x {side} random numbers; {copied >> 20} MB copied to where "
        "the model runs. The fastest of five.",
        rounds=1,
        columns=(Column(name=_TERA, digits=0), Column(name=_GB_PER_SECOND, digits=1)),
        rows=tuple(rows),
        ratios=ratios,
    )


# --- the whole -----------------------------------------------------------------------------------


def measure_flux(here: Situation) -> Iterator[Result]:
    """Sample ten and fifty steps by glance, by a loop written by hand, and by diffusers."""
    clock = clock_of(here.device)
    # before the model is there: what offloads it binds the method
    meter = _watch_forwards(clock)
    loaded = build(here, here.fit())
    held = _held(here)
    pipeline, studio = loaded.pipeline, Studio(here.work, here.device.value, here.side)
    glance = GlancePipeline(pipeline, schedule=PRESETS["guide"].schedule, switch=loaded.switch)
    size = {"width": here.side, "height": here.side}

    def use(phase: str) -> None:
        pipeline.enable_lora()
        pipeline.set_adapters(phase)

    def by_glance() -> None:
        (image,) = glance(PROMPT, seed=0, width=here.side, height=here.side)
        image.save(here.work / "glance.png")

    def by_diffusers(steps: int, *, with_lora: bool) -> None:
        if with_lora:
            use(Phase.SLOW.value)
        else:
            pipeline.disable_lora()
        generator = torch.Generator("cpu").manual_seed(0)
        pipeline(PROMPT, num_inference_steps=steps, generator=generator, **size)

    def by_hand() -> None:
        paint(pipeline, studio, "hand", use)

    short: Mapping[str, Callable[[], None]] = {
        _HAND: by_hand,
        _GLANCE: by_glance,
        _BASE_10: partial(by_diffusers, 10, with_lora=False),
    }
    many = 12 if here.is_tiny else 50
    long: Mapping[str, Callable[[], None]] = {
        _BASE_50: partial(by_diffusers, many, with_lora=False),
        _LORA_50: partial(by_diffusers, many, with_lora=True),
    }
    by_hand()  # first calls are slow
    conditions = Conditions(
        device=here.device,
        rounds=1 if here.is_tiny else _TURNS,
        is_quick=here.is_tiny,
        tell=here.tell,
    )
    turns = interleave(
        {name: partial(_take, here, meter, way) for name, way in short.items()}, conditions
    )
    taken = {name: [one[name] for one in turns] for name in short}
    taken |= {name: [_take(here, meter, way)] for name, way in long.items()}
    rows = [
        Row(
            name=name,
            figures={
                column: summarise(one[column] for one in some)
                for column in (SECONDS, _DENOISING, PEAK)
            },
        )
        for name, some in taken.items()
    ]

    def ratio(name: str, column: str, one: str, other: str, goal: Goal | None = None) -> Ratio:
        is_of_rounds = one in short and other in short
        values = (
            ours[column] / theirs[column]
            for (turn, ours), (other_turn, theirs) in product(
                enumerate(taken[one]), enumerate(taken[other])
            )
            if turn == other_turn or not is_of_rounds
        )
        return Ratio(name=name, figure=summarise(values), goal=goal)

    yield Result(
        name=SAMPLING,
        compares=f"{_describe(here)}, kept as `--offload {loaded.memory}`, "
        f"{held / _GIGA:.1f} GB of the card after loading; two LoRAs of rank {RANK} on every "
        "linear layer of the blocks. With encoding and decoding, without loading; fifty steps "
        "once.",
        rounds=len(turns),
        columns=(
            Column(name=SECONDS, digits=2, shows_spread=True),
            Column(name=_DENOISING, digits=2),
            Column(name=PEAK, digits=1),
        ),
        rows=tuple(rows),
        ratios=(
            ratio("glance / by hand", SECONDS, _GLANCE, _HAND, Goal(at_most=1.05)),
            ratio("50 / 10 steps, a LoRA at work", _DENOISING, _LORA_50, _GLANCE),
            ratio("base's 50 steps / glance's 10", _DENOISING, _BASE_50, _GLANCE),
            ratio("base's 50 steps / glance's 10, whole", SECONDS, _BASE_50, _GLANCE),
            ratio("glance's 10 steps / the base's", _DENOISING, _GLANCE, _BASE_10),
        ),
        notes=(_compare(here),),
    )
    yield _measure_apart(here, loaded)


def _measure_apart(here: Situation, loaded: Loaded) -> Result:
    """Time what a picture takes beside its steps."""
    pipeline, clock = loaded.pipeline, clock_of(here.device)
    rows = here.side // 8
    dtype = here.fit().dtype
    phases = [Phase.SLOW, Phase.FAST]

    def encode() -> None:
        pipeline.encode_prompt(PROMPT, None)
        pipeline.maybe_free_model_hooks()

    def decode() -> None:
        device = pipeline._execution_device
        latents = torch.randn(1, 16, rows, rows, device=device, dtype=pipeline.vae.dtype)
        pipeline.vae.decode(latents)
        pipeline.maybe_free_model_hooks()

    def switch() -> None:
        loaded.switch.use(pipeline, phases[0], scale=1.0)
        phases.reverse()

    taken = []
    for name, work, times in (
        ("text encoding", encode, 3),
        ("decoding", decode, 3),
        ("one LoRA for the other", switch, _SWITCHES),
    ):
        _forget_peak(here)
        seconds = []
        with torch.inference_mode():
            for _ in range(1 if here.is_tiny else times):
                began = clock()
                work()
                seconds.append(clock() - began)
        figures = {SECONDS: summarise(seconds), PEAK: _peak(here)}
        taken.append(Row(name=name, figures=figures))
    return Result(
        name="card, parts of a picture",
        compares=f"The same model, in {dtype}, part by part.",
        rounds=1,
        columns=(Column(name=SECONDS, digits=4), Column(name=PEAK, digits=1)),
        rows=tuple(taken),
        ratios=(),
    )


def _take(here: Situation, meter: Meter, way: Callable[[], None]) -> dict[str, float]:
    _forget_peak(here)
    meter.first_forward = 0.0
    began = meter.clock()
    way()
    total = meter.clock() - began
    return {SECONDS: total, _DENOISING: meter.denoising, PEAK: _peak(here).median}


def _watch_forwards(clock: Callable[[], float]) -> Meter:
    from diffusers import FluxTransformer2DModel

    meter = Meter(clock)
    meter.watch("forward", FluxTransformer2DModel, "forward")
    return meter


def _compare(here: Situation) -> str:
    hand, glance = (
        np.asarray(Image.open(here.work / f"{way}.png")).astype(int) for way in ("hand", "glance")
    )
    return f"glance's picture differs from the one by hand by {abs(hand - glance).max()} of 255."


# --- ways to fit it ------------------------------------------------------------------------------


def measure_mode(here: Situation, quantize: str, memory: str) -> Iterator[Result]:
    """Sample with the weights kept in one way; then again on ever smaller pretended cards."""
    kept = (Quantize(quantize), Memory(memory))
    name = f"`--quantize {quantize} --offload {memory}`"
    row = Row(name=name, figures={}, instead=_DOES_NOT_FIT)
    notes: tuple[str, ...] = ()
    try:
        loaded = build(here, here.fit(quantize=kept[0], memory=kept[1]))
        figures = {LOADED: _gigabytes(_held(here))}
        notes = (_what_auto_takes(here, loaded, kept[0]),) if kept[1] is Memory.FULL else ()
        glance = GlancePipeline(loaded.pipeline, schedule=_BRIEF, switch=loaded.switch)
        paint_one = partial(glance, PROMPT, seed=0, width=here.side, height=here.side)
        paint_one()  # the first is slow
        glance.schedule = PRESETS["guide"].schedule
        clock = clock_of(here.device)
        _forget_peak(here)
        began = clock()
        paint_one()
        figures |= {TEN_STEPS: summarise([clock() - began]), PEAK: _peak(here)}
        row = Row(name=name, figures=figures)
        yield _modes(here, row, notes)
        glance.schedule = _BRIEF
        smallest = _find_smallest(here, paint_one)
        if smallest is not None:
            row = Row(name=name, figures={**figures, FITS: summarise([smallest])})
        elif here.device is Device.CUDA:
            row = Row(name=name, figures=figures, instead=f"none of {_NAMED}")
    except Exception as exc:
        if not lacks_memory(exc):
            raise
    yield _modes(here, row, notes)


def _modes(here: Situation, row: Row, notes: tuple[str, ...]) -> Result:
    return Result(
        name=MODES,
        compares=f"{_describe(here)}, two LoRAs. The smallest card is the last of {_NAMED} "
        "GB of which torch was given as much memory as it has, less 1 GB, and still sampled; a "
        "real one may do with less, as cuDNN takes what it sees free.",
        rounds=1,
        columns=(
            Column(name=LOADED, digits=1),
            Column(name=PEAK, digits=1),
            Column(name=TEN_STEPS, digits=1),
            Column(name=FITS, digits=0),
        ),
        rows=(row,),
        ratios=(),
        notes=notes,
    )


def _find_smallest(here: Situation, paint_one: Callable[[], Any]) -> int | None:
    """Return the smallest of the cards that still suffices; None: none, or there is no card."""
    if here.device is not Device.CUDA:
        return None
    _, total = torch.cuda.mem_get_info()
    smallest = None
    for cap in CAPS:
        missing = cap - total / 2**30
        if missing > 0:
            if missing < _NOMINAL:
                smallest = cap  # that is the card here, and it has just done
            continue
        free_memory()
        # of what is reserved, and torch gives back what it does not use before it gives up
        torch.cuda.set_per_process_memory_fraction((cap * 2**30 - _OTHERS) / total)
        here.tell(f"with as much as a card of {cap} GB has")
        try:
            paint_one()
        except Exception as exc:
            if not lacks_memory(exc):
                raise
            break  # what is smaller does not do either
        smallest = cap
    return smallest


def _what_auto_takes(here: Situation, loaded: Loaded, quantize: Quantize) -> str:
    sizes = part_sizes(loaded.pipeline)
    activations = activation_bytes(here.side**2)
    taken = (
        f"{choose_memory(sizes, free=int(cap * 2**30 - _OTHERS), activations=activations)} on {cap}"
        for cap in CAPS
    )
    return f"With `--quantize {quantize}`, `--offload auto` takes {', '.join(taken)} GB."


# --- torch.compile -------------------------------------------------------------------------------


def measure_compile(here: Situation) -> Iterator[Result]:
    """Sample before and after torch.compile has built the transformer, the same LoRAs in it."""
    if not here.is_tiny:
        require_compiler(here.device)
    rows: list[Row] = []
    ratios: tuple[Ratio, ...] = ()
    try:
        for name, figures in _take_compiled(here):
            rows.append(Row(name=name, figures=figures))
        values = [rows[-1].figures[TEN_STEPS].median / rows[0].figures[TEN_STEPS].median]
        ratios = (Ratio(name="compiled / not", figure=summarise(values)),)
    except Exception as exc:
        if not lacks_memory(exc):
            raise
        rows.append(Row(name="`--compile`", figures={}, instead=_DOES_NOT_FIT))
    yield Result(
        name=COMPILING,
        compares=f"{_describe(here)}, everything on the card, two LoRAs swapped in place.",
        rounds=1,
        columns=(Column(name=TEN_STEPS, digits=2), Column(name=PEAK, digits=1)),
        rows=tuple(rows),
        ratios=ratios,
    )


def _take_compiled(here: Situation) -> Iterator[tuple[str, dict[str, Figure]]]:
    pipeline = build(here, here.fit(memory=Memory.FULL), with_pair=False).pipeline
    switch = load_swapped(pipeline, here.pair())
    pipeline.to(here.device.value)
    glance = GlancePipeline(pipeline, schedule=PRESETS["guide"].schedule, switch=switch)
    clock = clock_of(here.device)

    def take() -> dict[str, Figure]:
        _forget_peak(here)
        began = clock()
        glance(PROMPT, seed=0, width=here.side, height=here.side)
        return {TEN_STEPS: summarise([clock() - began]), PEAK: _peak(here)}

    take()  # the first is slow
    yield "not compiled", take()
    # tiny: what is built is not the question, and a C++ compiler takes its time
    compile_transformer(pipeline, **({"backend": "eager"} if here.is_tiny else {}))
    yield "`--compile`, the first picture", take()
    yield "`--compile`, the next", take()


# --- recording -----------------------------------------------------------------------------------


def measure_recording(here: Situation) -> Iterator[Result]:
    """Record a teacher's paths and sample the same by diffusers, in ever larger batches."""
    loaded = build(here, here.fit(pixels=4 * here.side**2), with_pair=False)
    glance = GlancePipeline(loaded.pipeline, switch=loaded.switch)
    rows: list[Row] = []
    ratios: list[Ratio] = []
    notes: tuple[str, ...] = ()
    for batch in _BATCHES[:2] if here.is_tiny else _BATCHES:
        here.tell(f"batches of {batch}")
        found = _record(here, glance, batch=batch, steps=3 if here.is_tiny else 6)
        if found is None:
            rows.append(Row(name=f"batch of {batch}", figures={}, instead=_DOES_NOT_FIT))
            yield _recording(here, loaded, rows, ratios, notes)
            return
        paces, plain = summarise(found.paces), summarise(found.plain)
        figures = {_PACE: paces, _PLAIN_PACE: plain, PEAK: found.peak}
        rows.append(Row(name=f"batch of {batch}", figures=figures))
        ratios.append(
            Ratio(
                name=f"seconds of a pass, recording / diffusers, batch of {batch}",
                figure=summarise(
                    theirs / ours for ours, theirs in zip(found.paces, found.plain, strict=True)
                ),
                goal=Goal(at_most=1.05),
            )
        )
        notes = (_say_bytes(found.state_bytes),)
        yield _recording(here, loaded, rows, ratios, notes)


def _recording(
    here: Situation,
    loaded: Loaded,
    rows: Sequence[Row],
    ratios: Sequence[Ratio],
    notes: tuple[str, ...],
) -> Result:
    return Result(
        name="card, recording",
        compares=f"{_describe(here)}, no LoRA, kept as `--offload {loaded.memory}`: forward passes "
        "a second, between the first step and the last.",
        rounds=1 if here.is_tiny else _ROUNDS,
        columns=(
            Column(name=_PACE, digits=2, shows_spread=True),
            Column(name=_PLAIN_PACE, digits=2),
            Column(name=PEAK, digits=1),
        ),
        rows=tuple(rows),
        ratios=tuple(ratios),
        notes=notes,
    )


@dataclass
class _Told:
    """When steps were done, and of how many pictures."""

    clock: Callable[[], float]
    times: list[float] = field(default_factory=list)
    counts: set[int] = field(default_factory=set)

    def __call__(self, count: int) -> None:
        self.times.append(self.clock())
        self.counts.add(count)

    def pace(self, batch: int) -> float:
        """Return the passes a second between the first step and the last, a picture each."""
        return (len(self.times) - 1) * batch / (self.times[-1] - self.times[0])


@dataclass(frozen=True, slots=True)
class _Recording:
    """What recording in batches of one size took."""

    paces: Sequence[float]
    plain: Sequence[float]
    peak: Figure
    state_bytes: float


def _record(
    here: Situation, glance: GlancePipeline, *, batch: int, steps: int
) -> _Recording | None:
    """Record and sample in turn; None: memory does not suffice."""
    family, side = find_family("flux"), here.side
    images = [
        resolve_sample_settings(family, prompt=PROMPT, seed=seed, width=side, height=side)
        for seed in range(batch)
    ]
    assert family.shift is not None
    teacher = teacher_sigmas(family.shift, side, side, steps=steps)
    kept = (teacher[0], teacher[1], 0.0)
    paces: list[float] = []
    plain: list[float] = []
    try:
        for _ in range(1 if here.is_tiny else _ROUNDS):
            _forget_peak(here)
            told = _Told(clock_of(here.device))
            recording = record_paths(
                glance, images, teacher=teacher, kept=kept, batch_size=batch, on_step=told
            )
            paths = list(recording)
            if told.counts != {batch}:
                return None  # glance has halved it
            peak = _peak(here)
            paces.append(told.pace(batch))
            plain.append(_sample_plainly(here, glance, images, steps))
    except Exception as exc:
        if not lacks_memory(exc):
            raise
        return None
    finally:
        free_memory()
    return _Recording(paces, plain, peak, paths[0].states.nbytes / len(kept))


def _sample_plainly(
    here: Situation, glance: GlancePipeline, images: Sequence[SampleSettings], steps: int
) -> float:
    """Sample the same by diffusers alone; return its pace."""
    told = _Told(clock_of(here.device))

    def after_step(_: Any, __: int, ___: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        told(len(images))
        return tensors

    glance.pipeline(
        [one.prompt for one in images],
        num_inference_steps=steps,
        guidance_scale=images[0].slow_guidance,
        width=here.side,
        height=here.side,
        generator=[torch.Generator("cpu").manual_seed(one.seed) for one in images],
        callback_on_step_end=after_step,
    )
    return told.pace(len(images))


def _say_bytes(a_state: float) -> str:
    return (
        f"A state takes {a_state / 1e6:.2f} MB on the disk: of a pair of 4 steps, of which 5 are "
        f"kept a path, 128 paths take {128 * 5 * a_state / _GIGA:.2f} GB."
    )


# --- what a card holds ---------------------------------------------------------------------------


def _describe(here: Situation) -> str:
    if here.is_tiny:
        return f"A tiny FLUX with random weights, {here.side} x {here.side} pixels"
    fit = here.fit()
    return (
        "FLUX.1-dev's architecture with random weights, T5-XXL and CLIP too, "
        f"{here.side} x {here.side} pixels, {fit.dtype}"
    )


def _forget_peak(here: Situation) -> None:
    if here.device is Device.CUDA:
        torch.cuda.reset_peak_memory_stats()


def _peak(here: Situation) -> Figure:
    """Return the gigabytes of the card since `_forget_peak`; without one the process's at most."""
    return _gigabytes(peak_memory(here.device.value))


def _held(here: Situation) -> int:
    if here.device is Device.CUDA:
        return torch.cuda.memory_allocated()
    return peak_memory(here.device.value)


def _gigabytes(number: float) -> Figure:
    return summarise([number / _GIGA])


_TERA: Final = "teraflops"
_GB_PER_SECOND: Final = "GB a second"
_SAID: Final = "what glance reckons of the card / that"
_HAND: Final = "by hand, 10 steps, both LoRAs"
_GLANCE: Final = "glance, 10 steps, both LoRAs"
_BASE_10: Final = "diffusers, 10 steps, base alone"
_BASE_50: Final = "diffusers, 50 steps, base alone"
_LORA_50: Final = "diffusers, 50 steps, a LoRA at work"
_DENOISING: Final = "seconds, denoising"
_PACE: Final = "recording, passes a second"
_PLAIN_PACE: Final = "diffusers, passes a second"
