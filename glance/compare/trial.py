"""What `glance train --compare` ends with: did the pair help, on its sample and elsewhere?"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from shlex import quote
from types import MappingProxyType
from typing import Any, Final

from glance.compare.execute import run_comparison
from glance.compare.outputs import Report, write_report
from glance.compare.plan import plan_comparison
from glance.compare.request import CompareRequest, Variant
from glance.compare.result import Row
from glance.errors import GlanceError, InferenceFailed, Problem
from glance.events import EventSink
from glance.families import find_family
from glance.run import RunFolder, load_manifest, read_caption
from glance.schedule import Phase

NEUTRAL_PROMPT: Final = "a bowl of fruit on a wooden table"
_VISIBLE: Final = 0.01  # SSIM: less is not seen in pictures side by side
_VARIANTS: Final = (Variant.TEACHER, Variant.BASE, Variant.BOTH)


class Outcome(StrEnum):
    """Whether the pair's picture is nearer to the teacher's than the base's of as many steps."""

    NEARER = "nearer"
    FURTHER = "further"
    ALIKE = "alike"


@dataclass(frozen=True, slots=True)
class Trial:
    """A comparison of a pair that was just trained, and what it says."""

    report: Report
    outcomes: tuple[Outcome, ...]
    sentence: str

    def to_json(self) -> dict[str, Any]:
        """Return what `glance train --json` says of it."""
        return {
            "outcome": self.outcomes[0].value,
            "sentence": self.sentence,
            **self.report.to_json(),
        }


def try_pair(run: RunFolder, on_event: EventSink) -> Trial:
    """Compare a finished run's pair with its base model, and write the sheet into the run.

    Raises InferenceFailed, which names the LoRAs, whatever the comparison failed at.
    """
    try:
        plan = plan_comparison(_request(run))
        report = write_report(plan, run_comparison(plan, on_event))
    except GlanceError as exc:
        loras = " and ".join(str(run.lora(phase)) for phase in Phase)
        done = Problem(
            f"both LoRAs are done: {loras}; comparing them with the base model failed",
            f"when what follows is mended: glance compare --run {quote(str(run.path))}",
        )
        raise InferenceFailed((done, *exc.problems)) from exc
    rows = report.comparison.rows
    return Trial(report, tuple(map(judge_row, rows)), describe_rows(rows))


def judge_row(row: Row) -> Outcome:
    """Decide by SSIM and PSNR together: where they disagree, or hardly differ, it is alike."""
    both, base = row.cells[Variant.BOTH], row.cells[Variant.BASE]
    ssim = (both.ssim or 0.0) - (base.ssim or 0.0)
    psnr = (both.psnr or 0.0) - (base.psnr or 0.0)
    if abs(ssim) < _VISIBLE or ssim * psnr <= 0:
        return Outcome.ALIKE
    return Outcome.NEARER if ssim > 0 else Outcome.FURTHER


def describe_rows(rows: tuple[Row, ...]) -> str:
    """Return one sentence on the sample's row, and on the other prompt's if there is one."""
    sample, *others = rows
    teacher, base, both = (sample.cells[variant] for variant in _VARIANTS)
    said = _SAID[judge_row(sample)].format(many=teacher.steps, few=both.steps)
    figures = f"SSIM {both.ssim:.2f} against {base.ssim:.2f}"
    apart = "".join(f"; on another prompt {_ELSEWHERE[judge_row(row)]}" for row in others)
    count = "one picture proves" if len(rows) == 1 else f"{len(rows)} pictures prove"
    return f"{said} ({figures}){apart}; {count} little"


def _request(run: RunFolder) -> CompareRequest:
    """Ask for the sample's caption, and for a prompt that has nothing to do with it.

    A family that edits is asked for the caption alone: another would not be of its reference.
    """
    manifest = load_manifest(run)
    edits = find_family(manifest.settings.family).edits
    caption = read_caption(run, manifest.sample)
    return CompareRequest(
        run=run.path,
        prompts=(caption,) if edits else (caption, NEUTRAL_PROMPT),
        variants=_VARIANTS,
        device=manifest.settings.device,
    )


_SAID: Final[Mapping[Outcome, str]] = MappingProxyType(
    {
        Outcome.NEARER: "it worked on this sample: the pair's {few} steps are nearer to the base's "
        "{many} than the base's own {few}",
        Outcome.FURTHER: "it did not help: the pair's {few} steps are further from the base's "
        "{many} than the base's own {few}",
        Outcome.ALIKE: "too close to call: the pair's {few} steps are about as near to the base's "
        "{many} as the base's own {few}",
    }
)
_ELSEWHERE: Final[Mapping[Outcome, str]] = MappingProxyType(
    {
        Outcome.NEARER: "they are nearer too",
        Outcome.FURTHER: "they are further away",
        Outcome.ALIKE: "there is hardly a difference",
    }
)
