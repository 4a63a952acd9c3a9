"""The figures of each picture: known from before, or measured now."""

import os
from collections.abc import Mapping, Set
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from glance.compare.cache import Kept
from glance.compare.request import ComparisonPlan, Metric, PlannedRow, Variant
from glance.compare.shelf import Shelf
from glance.errors import Problem, SetupError
from glance.hub import check_access, is_offline

if TYPE_CHECKING:
    from glance.diffusion.similarity import Perceptual, PromptScore

LIKENESS: Final = frozenset({"psnr", "ssim"})
CLIP_MODEL: Final = "openai/clip-vit-large-patch14"  # torchmetrics' own choice
_ALEXNET: Final = "hub/checkpoints/alexnet-owt-7be5be79.pth"  # torchvision's, in torch's folder
_ABSENT: Final = "fetch it once with a connection, or leave out --metric"


class Meter:
    """Measures pictures against the teacher's; loads what that needs once, when it is needed."""

    def __init__(self, metrics: tuple[Metric, ...], shelf: Shelf) -> None:
        """Take the metrics that were asked for besides PSNR and SSIM."""
        self._metrics = metrics
        self._shelf = shelf
        self._perceptual: Perceptual | None = None
        self._prompt_score: PromptScore | None = None

    def prepare(self, plan: ComparisonPlan) -> None:
        """Fetch and load the networks that will be used; raises SetupError if one cannot be had."""
        missing = {
            name for row, variant in plan.cells() for name in self._missing(row, variant)
        } - LIKENESS
        if not missing:
            return
        require_networks(missing)
        import_similarity()
        from glance.diffusion.similarity import Perceptual, PromptScore

        if Metric.LPIPS in missing:
            self._perceptual = Perceptual.load()
        if Metric.CLIP in missing:
            self._prompt_score = PromptScore.load(CLIP_MODEL)

    def measure(
        self, row: PlannedRow, variant: Variant, pictures: Mapping[str, Kept]
    ) -> dict[str, float]:
        """Return one picture's figures by name; `pictures` by key, the teacher's among them."""
        key, reference = row.keys[variant], row.keys.get(Variant.TEACHER, "")
        known = self._shelf.find_figures(key, reference)
        missing = self._wanted(row, variant) - known.keys()
        if missing:
            known |= self._make(missing, row, pictures[key], pictures.get(reference))
            self._shelf.keep_figures(key, reference, known)
        return {name: known[name] for name in sorted(self._wanted(row, variant))}

    def _wanted(self, row: PlannedRow, variant: Variant) -> Set[str]:
        has_teacher = Variant.TEACHER in row.keys and variant is not Variant.TEACHER
        wanted = {metric.value for metric in self._metrics}
        return wanted | LIKENESS if has_teacher else wanted - {Metric.LPIPS}

    def _missing(self, row: PlannedRow, variant: Variant) -> Set[str]:
        known = self._shelf.find_figures(row.keys[variant], row.keys.get(Variant.TEACHER, ""))
        return self._wanted(row, variant) - known.keys()

    def _make(
        self, names: Set[str], row: PlannedRow, kept: Kept, reference: Kept | None
    ) -> dict[str, float]:
        import_similarity()
        from glance.diffusion.similarity import measure_likeness

        made: dict[str, float] = {}
        if reference is not None and names & LIKENESS:
            made |= measure_likeness(kept.image, reference.image)
        if reference is not None and self._perceptual is not None:
            made["lpips"] = self._perceptual.measure(kept.image, reference.image)
        if self._prompt_score is not None:
            made["clip"] = self._prompt_score.measure(kept.image, row.settings.prompt)
        return made


def import_similarity() -> None:
    """Import what measuring needs, beforehand: it takes seconds."""
    from glance.diffusion.quiet import hush, importing

    hush()
    with importing():
        import glance.diffusion.similarity  # noqa: F401


def require_networks(names: Set[str]) -> None:
    """Raise SetupError, before anything slow is imported, for networks that cannot be had."""
    problems = []
    if find_spec("torchmetrics") is None:
        problems.append(Problem("torchmetrics is not installed", "pip install torchmetrics"))
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
