"""How near two pictures are (torchmetrics' figures), and how well one shows its prompt.

PSNR, SSIM and LPIPS compare a picture with a reference of the same size; CLIP score needs none.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from glance.core.errors import SetupError

PSNR_MOST: Final = 100.0  # dB: identical pictures have an infinite one, which has no mean


def measure_likeness(picture: Image.Image, reference: Image.Image) -> dict[str, float]:
    """Return `psnr` (decibels, at most PSNR_MOST) and `ssim` (1: the same) of two pictures.

    SSIM is Wang et al. 2004 ("Image quality assessment: from error visibility to structural
    similarity"), as they set it: a Gaussian window of 11 pixels, sigma 1.5.
    """
    one, other = _as_tensor(picture), _as_tensor(reference)
    psnr = peak_signal_noise_ratio(one, other, data_range=1.0)
    ssim = structural_similarity_index_measure(one, other, data_range=1.0)
    return {"psnr": min(PSNR_MOST, float(psnr)), "ssim": float(ssim)}  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Perceptual:
    """LPIPS of Zhang et al. 2018, on AlexNet: 0 is the same, larger is further."""

    network: Any

    @classmethod
    def load(cls) -> "Perceptual":
        """Load the network, fetched if it must be; raises SetupError."""
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        with _fetching("LPIPS"):
            return cls(LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True))

    def measure(self, picture: Image.Image, reference: Image.Image) -> float:
        """Return the distance of two pictures of one size."""
        with torch.inference_mode():
            return float(self.network(_as_tensor(picture), _as_tensor(reference)))


@dataclass(frozen=True, slots=True)
class PromptScore:
    """CLIP score of Hessel et al. 2021: 100 times the cosine of picture and prompt, at least 0.

    The arithmetic is torchmetrics'; its own class, of 1.9, fails with transformers 5, whose
    CLIPModel returns an object and no tensor.
    """

    model: Any
    processor: Any

    @classmethod
    def load(cls, model: str) -> "PromptScore":
        """Load the network, of the Hub or a folder, fetched if it must be; raises SetupError."""
        from transformers import CLIPModel, CLIPProcessor

        with _fetching("CLIP score"):
            return cls(CLIPModel.from_pretrained(model), CLIPProcessor.from_pretrained(model))

    def measure(self, picture: Image.Image, prompt: str) -> float:
        """Return the score of a picture for a prompt, of which CLIP reads the first 77 tokens."""
        most = self.model.config.text_config.max_position_embeddings
        shown = self.processor(images=picture.convert("RGB"), return_tensors="pt")
        said = self.processor(text=prompt, return_tensors="pt", truncation=True, max_length=most)
        with torch.inference_mode():
            one = self.model.get_image_features(**shown).pooler_output  # (1, width)
            other = self.model.get_text_features(**said).pooler_output
        return max(0.0, 100 * float(torch.cosine_similarity(one, other)))


@contextmanager
def _fetching(what: str) -> Iterator[None]:
    """Turn what a failed download raises into a SetupError."""
    try:
        yield
    except (OSError, RuntimeError) as exc:
        reason = (str(exc).strip() or type(exc).__name__).splitlines()[0]
        raise SetupError(
            f"the network of {what} cannot be loaded: {reason}",
            hint=f"fetch it once with a connection, or leave out --metric for {what}",
        ) from exc


def _as_bytes(picture: Image.Image) -> torch.Tensor:
    """Return (1, 3, height, width), 0 to 255."""
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)[None]


def _as_tensor(picture: Image.Image) -> torch.Tensor:
    """Return (1, 3, height, width), 0 to 1."""
    return _as_bytes(picture).float() / 255
