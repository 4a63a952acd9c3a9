"""The figures of each picture: known from before, or measured now."""

import os
from collections.abc import Mapping, Set
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from glance.core.errors import Problem, SetupError
from glance.core.hub import check_access, is_offline
from glance.evaluation.compare.cache import Latents
from glance.evaluation.compare.request import ComparisonPlan, Metric, PlannedRow, Variant
from glance.evaluation.compare.shelf import Shelf

if TYPE_CHECKING:
    from PIL.Image import Image

    from glance.sampling.pipeline.similarity import Perceptual, PromptScore

LATENTS: Final = "latents"
LIKENESS: Final = frozenset({"psnr", "ssim"})
_USUAL: Final = LIKENESS | {LATENTS}
CLIP_MODEL: Final = "openai/clip-vit-large-patch14"  # torchmetrics' own choice
_ALEXNET: Final = "hub/checkpoints/alexnet-owt-7be5be79.pth"  # torchvision's, in torch's folder
_ABSENT: Final = "fetch it once with a connection, or leave out --metric"


class Meter:
    """Measures pictures against the teacher's; loads what that needs once, when it is needed."""

    def __init__(self, metrics: tuple[Metric, ...], shelf: Shelf) -> None:
        """Take the metrics that were asked for besides the usual ones."""
        self._metrics = metrics
        self._shelf = shelf
        self._perceptual: Perceptual | None = None
        self._prompt_score: PromptScore | None = None

    def prepare(self, plan: ComparisonPlan) -> None:
        """Fetch and load the networks that will be used; raises SetupError if one cannot be had."""
        missing = {
            name
            for row in plan.rows
            for variant in row.paintings
            for name in self._missing(row, variant)
        } - _USUAL
        if not missing:
            return
        require_networks(missing)
        import_similarity()
        from glance.sampling.pipeline.similarity import Perceptual, PromptScore

        if Metric.LPIPS in missing:
            self._perceptual = Perceptual.load()
        if Metric.CLIP in missing:
            self._prompt_score = PromptScore.load(CLIP_MODEL)

    def measure(
        self, row: PlannedRow, variant: Variant, images: Mapping[str, "Image"]
    ) -> dict[str, float]:
        """Return one picture's figures by name; `images` by key, the teacher's among them."""
        key, reference = row.paintings[variant].key, _reference(row)
        known = self._shelf.find_figures(key, reference)
        missing = self._wanted(row, variant) - known.keys()
        if missing:
            if LATENTS in missing:
                known[LATENTS] = self._measure_latents(key, reference)
            if missing - {LATENTS}:
                known |= self._make(missing, row, images[key], images.get(reference))
            self._shelf.keep_figures(key, reference, known)
        return {name: known[name] for name in sorted(self._wanted(row, variant))}

    def knows(self, key: str, reference: str) -> bool:
        """Whether `distance` needs neither picture."""
        return LATENTS in self._shelf.find_figures(key, reference)

    def distance(self, key: str, reference: str) -> float:
        """Return the root mean square of the difference of two pictures' final latents."""
        known = self._shelf.find_figures(key, reference)
        if LATENTS not in known:
            known[LATENTS] = self._measure_latents(key, reference)
            self._shelf.keep_figures(key, reference, known)
        return known[LATENTS]

    def _measure_latents(self, key: str, reference: str) -> float:
        one, other = (self._shelf.read_latents(name) for name in (key, reference))
        return root_mean_square(one, other)

    def _wanted(self, row: PlannedRow, variant: Variant) -> Set[str]:
        has_teacher = Variant.TEACHER in row.paintings and variant is not Variant.TEACHER
        wanted = {metric.value for metric in self._metrics}
        return wanted | _USUAL if has_teacher else wanted - {Metric.LPIPS}

    def _missing(self, row: PlannedRow, variant: Variant) -> Set[str]:
        known = self._shelf.find_figures(row.paintings[variant].key, _reference(row))
        return self._wanted(row, variant) - known.keys()

    def _make(
        self, names: Set[str], row: PlannedRow, image: "Image", reference: "Image | None"
    ) -> dict[str, float]:
        import_similarity()
        from glance.sampling.pipeline.similarity import measure_likeness

        made: dict[str, float] = {}
        if reference is not None and names & LIKENESS:
            made |= measure_likeness(image, reference)
        if reference is not None and self._perceptual is not None:
            made["lpips"] = self._perceptual.measure(image, reference)
        if self._prompt_score is not None:
            made["clip"] = self._prompt_score.measure(image, row.settings.prompt)
        return made


def root_mean_square(one: Latents, other: Latents) -> float:
    """Return that of the difference of two pictures' latents, of one shape."""
    difference = one.astype(np.float64) - other
    return float(np.sqrt(np.mean(np.square(difference))))


def import_similarity() -> None:
    """Import what measuring needs, beforehand: it takes seconds."""
    from glance.sampling.pipeline.quiet import hush, importing

    hush()
    with importing():
        import glance.sampling.pipeline.similarity  # noqa: F401


def _reference(row: PlannedRow) -> str:
    teacher = row.paintings.get(Variant.TEACHER)
    return "" if teacher is None else teacher.key


def require_networks(names: Set[str]) -> None:
    """Raise SetupError, before anything slow is imported, for networks that cannot be had."""
    problems = []
    if find_spec("torchmetrics") is None:
        problems.append(Problem("torchmetrics is not installed", "in glance's clone: uv sync"))
    if Metric.LPIPS in names and is_offline() and not (_torch_home() / _ALEXNET).is_file():
        problems.append(
            Problem(
                f"--metric lpips: its network, {_torch_home() / _ALEXNET}, is not here, and "
                "HF_HUB_OFFLINE forbids fetching it",
                _ABSENT,
            )
        )
    if Metric.CLIP in names and (doubt := check_access(CLIP_MODEL)) and is_offline():
        problems.append(Problem(f"--metric clip: {doubt}", _ABSENT))
    if problems:
        raise SetupError(problems)


def _torch_home() -> Path:
    """Return where torch keeps what it fetches, by its own rule (torch.hub.get_dir)."""
    caches = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"))
    return Path(os.environ.get("TORCH_HOME", caches / "torch")).expanduser()
