"""How near an image is to a reference of the same size: PSNR, SSIM and LPIPS, torchmetrics' own."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from glance.core.errors import SetupError, reason_of

_MOST: Final = 100.0  # dB: identical pictures have an infinite PSNR, which has no mean


def measure_likeness(picture: Image.Image, reference: Image.Image) -> dict[str, float]:
    """Return `psnr` (decibels, at most 100) and `ssim` (1: the same) of two pictures.

    SSIM is Wang et al. 2004 ("Image quality assessment: from error visibility to structural
    similarity"), as they set it: a Gaussian window of 11 pixels, sigma 1.5.
    """
    one, other = _as_tensor(picture), _as_tensor(reference)
    psnr = peak_signal_noise_ratio(one, other, data_range=1.0)
    ssim = structural_similarity_index_measure(one, other, data_range=1.0)
    return {"psnr": min(_MOST, float(psnr)), "ssim": float(ssim)}  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Perceptual:
    """LPIPS of Zhang et al. 2018, on AlexNet: 0 is the same, larger is further."""

    network: Any

    @classmethod
    def load(cls) -> "Perceptual":
        """Load the network, fetched if it must be; raises SetupError."""
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        try:
            return cls(LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True))
        except (OSError, RuntimeError) as exc:
            reason = reason_of(exc)
            raise SetupError(
                f"the network of LPIPS cannot be loaded: {reason}",
                hint="fetch it once with a connection, or leave out --metric for LPIPS",
            ) from exc

    def measure(self, picture: Image.Image, reference: Image.Image) -> float:
        """Return the distance of two pictures of one size."""
        with torch.inference_mode():
            return float(self.network(_as_tensor(picture), _as_tensor(reference)))


def _as_tensor(picture: Image.Image) -> torch.Tensor:
    """Return (1, 3, height, width), 0 to 1."""
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)[None].float() / 255
