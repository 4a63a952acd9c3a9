"""Previews: the pair as it is at some steps of its second phase, sampled beside the training.

A checkpoint of every `--preview-every` steps is copied, because SimpleTuner keeps only two, made a
finished LoRA, and sampled by a `glance infer` of its own. Training neither waits for that nor fails
with it: what cannot be sampled beside the trainers is sampled once they are gone. A preview is its
files, so that the next start knows what is still to come:

    images/previews/step-0020-fast.safetensors     the LoRA of then; it may be used as any other
    images/previews/step-0020-1.png, ...           a prompt each; once they are there it is done
    images/previews/strip.png                      all of them
"""

import json
import os
import re
import shutil
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import psutil

from glance import __version__
from glance.core.device import Device, Memory, pin_device
from glance.core.errors import KILLED, GlanceError, reason_of
from glance.core.events import Event, EventSink, Noted, PreviewDone, Warned
from glance.core.files import find_place, replacing, write_text
from glance.core.phase import Phase
from glance.evaluation.report import draw_grid
from glance.runs.checkpoints import checkpoint_names
from glance.runs.folder import LORA_FILE, RunFolder
from glance.runs.lora import finalise_lora, find_origin
from glance.runs.manifest import PhaseState
from glance.training.plan import TrainingPlan
from glance.training.simpletuner.process import find_secrets
from glance.training.simpletuner.runner import Job, JobEnded
from glance.training.trainer import RunRecord, TrainerSetup

STRIP: Final = "strip.png"
_PROMPTS: Final = "config/previews.jsonl"
_SEED: Final = "0"
_STEP: Final = re.compile(r"step-(\d+)-")
_REMEMBERED_LINES: Final = 50
_NICE: Final = 10
_COLUMNS: Final = 12  # of the strip


@dataclass(frozen=True, slots=True)
class PreviewEnded(Event):
    """The process of a preview is gone; `reason`: why there is none."""

    step: int
    reason: str | None


class Previews:
    """The previews of one training, one after the other, on a thread beside it.

    Every method is called on the thread that trains; `tell` is called on the other one, with
    PreviewEnded, which is to be handed to `note_end`.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        setup: TrainerSetup,
        recorded: RunRecord,
        *,
        tell: EventSink,
        on_event: EventSink,
    ) -> None:
        """Go on from what is there."""
        self._plan = plan
        self._setup = setup
        self._recorded = recorded
        self._tell = tell
        self._sink = on_event
        self._folder = plan.run.previews
        self._thread: threading.Thread | None = None
        self._sampled: int | None = None  # the step of the pair that is sampled now
        self._is_alone = False  # no trainer runs any more
        self._waits = False  # until none does
        self._given_up: set[int] = set()
        self._has_new = False
        if plan.previews is not None:
            stale = [".*"]  # what a killed start was writing
            if self._shown_before() != list(plan.preview_prompts):
                stale.append("step-*.png")
            for path in (path for pattern in stale for path in self._folder.glob(pattern)):
                path.unlink(missing_ok=True)

    @property
    def is_sampling(self) -> bool:
        """Whether there is a process to be ended."""
        is_alive = self._thread is not None and self._thread.is_alive()
        return is_alive and self._sampled is not None

    def take(self, phase: Phase, step: int) -> None:
        """Hear of a checkpoint that is sealed; copy it if it is due, and sample when it can be."""
        if not self._is_due(phase, step):
            return
        try:
            for one, source in self._find_pair(phase, step):
                with replacing(self._lora(step, one)) as temporary:
                    shutil.copyfile(source, temporary)
        except OSError as exc:
            reason = reason_of(exc)
            self._sink(Warned(f"no preview after step {step}: its LoRA cannot be copied: {reason}"))
        else:
            self._start_next()

    def note_end(self, event: PreviewEnded) -> None:
        """Tell how it went, and go on with the next."""
        self._sampled, step = None, event.step
        if event.reason is None:
            self._has_new = True
            self._sink(PreviewDone(step, tuple(map(str, self._pictures(step)))))
        elif self._is_alone:
            self._given_up.add(step)
            hint = f"the same command tries it again; all that it said: {self._log}"
            self._sink(Warned(f"no preview after step {step}: {event.reason}", hint))
        else:
            self._postpone(f"no preview after step {step}: {event.reason}")
        self._start_next()

    def go_on(self) -> bool:
        """Make what is missing now that no trainer runs; return whether that is to be waited for.

        When all is made, draw the strip.
        """
        if self._plan.previews is None:
            return False
        if not self._is_alone:
            self._is_alone, self._waits = True, False
            self._start_next()
        if self._sampled is not None:
            return True
        self._draw_strip()
        return False

    # --- which are to be made ---

    def _is_due(self, phase: Phase, step: int) -> bool:
        """Whether a preview is of this checkpoint: of the second phase, none since the multiple.

        The last step's is of the finished pair.
        """
        asked, settings = self._plan.previews, self._plan.settings
        is_fast_done = self._is_done(Phase.FAST)
        if asked is None or step >= settings.steps or (phase is Phase.SLOW and not is_fast_done):
            return False
        due = step // asked.every * asked.every
        found = _steps(self._folder.glob("step-*"))
        return due > 0 and not any(due <= one <= step for one in found)

    def _find_pair(self, phase: Phase, step: int) -> Iterator[tuple[Phase, Path]]:
        """Yield the LoRAs that will not stay: this one, and that of a phase trained beside it."""
        output, other = self._plan.run.output, phase.other
        if not self._is_done(other):
            names = checkpoint_names(self._plan.run, other)
            if not names:  # there is no pair yet: the next checkpoint's is the first
                return
            newest = max(names, key=lambda name: int(name.split("-")[1]))
            yield other, output(other) / newest / LORA_FILE
        yield phase, output(phase) / f"checkpoint-{step}" / LORA_FILE

    def _is_done(self, phase: Phase) -> bool:
        return self._recorded.manifest.phases[phase].state is PhaseState.DONE

    def _to_come(self) -> Iterator[int]:
        """Yield the steps whose LoRAs are there and whose images are not."""
        steps = set(_steps(self._folder.glob("step-*.safetensors")))
        if self._is_alone and self._recorded.manifest.is_finished:
            steps.add(self._plan.settings.steps)
        for step in sorted(steps - self._given_up):
            is_made = all(path.exists() for path in self._pictures(step))
            if not is_made and all(path.exists() for path in self._loras(step).values()):
                yield step

    def _lora(self, step: int, phase: Phase) -> Path:
        return self._folder / f"step-{step:04}-{phase}.safetensors"

    def _loras(self, step: int) -> dict[Phase, Path]:
        """Return the pair of that step: copies, and of a phase that was done the finished LoRA."""
        own = {phase: self._lora(step, phase) for phase in Phase}
        return {
            one: path if path.exists() else self._plan.run.lora(one) for one, path in own.items()
        }

    def _pictures(self, step: int) -> list[Path]:
        numbers = range(1, len(self._plan.preview_prompts) + 1)
        return [self._folder / f"step-{step:04}-{number}.png" for number in numbers]

    # --- sampling ---

    def _start_next(self) -> None:
        step = next(self._to_come(), None)
        if step is None or self._sampled is not None or self._waits:
            return
        if not self._is_alone and (lack := self._lack_of_memory()):
            self._postpone(lack)
            return
        self._sampled = step
        work = partial(self._sample, step, is_alone=self._is_alone)
        self._thread = threading.Thread(target=work, name="previews")
        self._thread.start()

    def _postpone(self, message: str) -> None:
        self._waits = True
        self._sink(Warned(message, "the previews are made once the training is over"))

    def _lack_of_memory(self) -> str | None:
        """Say that the system's memory does not suffice beside the trainer.

        Linux might end the trainer for it.
        """
        weights = self._plan.settings.weights
        size = 4 if self._plan.settings.device is Device.CPU else 2  # bytes of a number
        needed = size * (weights.transformer + sum(weights.text_encoders))
        free = psutil.virtual_memory().available / 1e9
        if needed <= free:
            return None
        lack = f"they take {needed:.0f} GB of memory, and {free:.0f} are free"
        return f"no previews beside the training: {lack}"

    def _sample(self, step: int, *, is_alone: bool) -> None:
        """Run `glance infer`; tell how it ended. On a thread of its own.

        A fault of glance's shows as a traceback, and the training goes on.
        """
        lines = deque[str](maxlen=_REMEMBERED_LINES)
        reason: str | None = "a fault in glance"
        try:
            self._prepare(step)
            code = self._setup.runner.run(self._job(step, is_alone=is_alone), lines.append)
            is_made = not code and all(path.exists() for path in self._pictures(step))
            reason = None if is_made else _explain(lines, code)
        except JobEnded:
            reason = "it was ended"
        except GlanceError as exc:
            reason = exc.problems[0].message
        except OSError as exc:
            reason = str(exc)
        finally:
            self._tell(PreviewEnded(step, reason))

    def _prepare(self, step: int) -> None:
        """Make the copies finished LoRAs, and say what is to be sampled."""
        plan, manifest = self._plan, self._recorded.manifest
        for phase in Phase:
            path, config = self._lora(step, phase), plan.trainer_config(phase)
            if path.exists():
                rank, alpha = config["lora_rank"], config["lora_alpha"]
                origin = find_origin(manifest, phase, version=__version__)
                finalise_lora(path, rank=rank, alpha=alpha, origin=origin)
        # a run's own; LoRAs that are given by hand do not bring their size
        size = (
            {}
            if plan.reference
            else {
                name: value
                for name, value in manifest.sampling.items()
                if name in ("width", "height")
            }
        )
        lines = []
        for text, path in zip(plan.preview_prompts, self._pictures(step), strict=True):
            path.unlink(missing_ok=True)  # one of two
            lines.append(json.dumps({"prompt": text, "output": path.name, **size}))
        write_text(plan.run.path / _PROMPTS, "\n".join(lines) + "\n")

    def _job(self, step: int, *, is_alone: bool) -> Job:
        run, settings = self._plan.run, self._plan.settings
        is_beside = settings.device is Device.CUDA and not is_alone
        command = [sys.executable, "-P", "-m", "glance", "infer", "--quiet", "--seed", _SEED]
        for phase, path in self._loras(step).items():
            command += [f"--{phase}-lora", _within(run, path)]
        command += ["--prompt-file", _PROMPTS, "--output", _within(run, self._folder)]
        # beside a trainer as little of the card as can be: it might want more later
        command += ["--offload", Memory.GROUP if is_beside else Memory.AUTO]
        command += ["--device", settings.device]
        if self._plan.reference is not None:
            command += ["--source-image", self._find_reference()]
        nice = shutil.which("nice")
        return Job(
            command=[*([nice, "-n", str(_NICE)] if nice else []), *command],
            folder=run.path,
            environment=self._environment(),
            log=self._log,
            secrets=find_secrets(os.environ),
            held=() if self._setup.lock is None else (self._setup.lock,),
        )

    def _environment(self) -> dict[str, str]:
        """Return this process's own, on the accelerator of the training's first phase."""
        environment, settings = dict(os.environ), self._plan.settings
        if self._setup.is_offline:
            environment["HF_HUB_OFFLINE"] = "1"
        if settings.device is Device.CUDA:
            return pin_device(environment, self._plan.devices[0])
        return environment

    def _find_reference(self) -> str:
        """Return what is edited: the sample's, as it is staged, else that of the recordings."""
        run, manifest = self._plan.run, self._recorded.manifest
        if manifest.sample is not None:
            return str(manifest.sample.reference)
        teacher = self._plan.settings.teacher
        assert teacher is not None
        assert teacher.reference is not None
        return str(find_place(teacher.places[teacher.reference], run.path))

    def _shown_before(self) -> list[str]:
        """Return the prompts of the images that are there."""
        try:
            lines = (self._plan.run.path / _PROMPTS).read_text(encoding="utf-8").splitlines()
            return [json.loads(line)["prompt"] for line in lines]
        except (OSError, ValueError, LookupError, TypeError):
            return []

    @property
    def _log(self) -> Path:
        return self._plan.run.path / "logs/previews.log"

    # --- all of them ---

    def _draw_strip(self) -> None:
        strip = self._folder / STRIP
        steps = sorted({*_steps(self._folder.glob("step-*-1.png"))})
        if not steps or (strip.exists() and not self._has_new):
            return
        try:
            shown = _spread(steps, _COLUMNS)
            columns = {f"step {one}": self._pictures(one) for one in shown}
            draw_grid(self._plan.preview_prompts, columns, strip)
        except (OSError, ValueError) as exc:
            self._sink(Warned(f"no strip of the previews: {exc}"))
        else:
            self._sink(Noted(f"all previews: {strip}"))


def _steps(paths: Iterable[Path]) -> Iterator[int]:
    for path in paths:
        if match := _STEP.match(path.name):
            yield int(match[1])


def _spread(steps: Sequence[int], most: int) -> list[int]:
    """Return so many of the steps at most, evenly: the first and the last among them."""
    if len(steps) <= most:
        return list(steps)
    return [steps[round(number * (len(steps) - 1) / (most - 1))] for number in range(most)]


def _within(run: RunFolder, path: Path) -> str:
    return path.relative_to(run.path).as_posix()


def _explain(lines: Sequence[str], code: int) -> str:
    """Return why a preview's process failed, in a line."""
    prefix = "error: "
    said = next((line for line in lines if line.startswith(prefix)), None)
    if said is not None:
        return said.removeprefix(prefix)
    if code == KILLED:
        return "it was killed, most likely because the system ran out of memory"
    last = next((line for line in reversed(lines) if line.strip()), None)
    return last or f"its process ended with {code}"
