"""What `glance train --compare` ends with: did the pair help, on its sample and elsewhere?"""

from shlex import quote
from typing import Final

from glance.core.errors import GlanceError, InferenceFailed, Problem
from glance.core.events import EventSink
from glance.core.phase import Phase
from glance.evaluation.compare.execute import compare_pair
from glance.evaluation.compare.outputs import Report
from glance.evaluation.compare.plan import plan_comparison
from glance.evaluation.compare.request import JUDGED, CompareRequest
from glance.models.families import find_family
from glance.runs.folder import RunFolder
from glance.runs.manifest import load_manifest
from glance.runs.reading import read_caption

NEUTRAL_PROMPT: Final = "a bowl of fruit on a wooden table"


def try_pair(run: RunFolder, on_event: EventSink, request: CompareRequest | None = None) -> Report:
    """Compare a finished run's pair with its base model, and write the report into the run.

    Without a `request`, on the caption that it was trained on, and elsewhere.

    Raises InferenceFailed, which names the LoRAs, whatever the comparison failed at.
    """
    try:
        return compare_pair(plan_comparison(request or _request(run)), on_event)
    except GlanceError as exc:
        loras = " and ".join(str(run.lora(phase)) for phase in Phase)
        done = Problem(
            f"both LoRAs are done: {loras}; comparing them with the base model failed",
            f"when what follows is mended: glance compare --run {quote(str(run.path))}",
        )
        raise InferenceFailed((done, *exc.problems)) from exc


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
        variants=JUDGED,
        device=manifest.settings.device,
    )
