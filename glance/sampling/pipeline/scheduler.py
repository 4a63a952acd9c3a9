"""An Euler scheduler that runs exactly the sigmas it is given, down to a given end.

diffusers' own appends a terminal 0 to any list, shifts given sigmas once more (FLUX by the image's
size, SD3 by 3) and stretches Qwen-Image's to end at 0.02. For a schedule that was trained on, each
of these is wrong: the model would see noise levels it was not trained for.
"""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler


class VerbatimEulerScheduler(FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]  # untyped
    """FlowMatchEulerDiscreteScheduler whose `set_timesteps(sigmas=...)` changes nothing.

    One instance serves one phase: `end_sigma` is where it leaves the latents, the next phase's
    first sigma, or 0 for the finished image. Each step is x + (next sigma - sigma) * velocity.
    """

    keeps_estimate: bool = False
    """Whether `step` also reckons the model's estimate of the finished image."""
    estimate: torch.Tensor
    """Of the last step: x - sigma * velocity, float32, in the latents' shape."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take diffusers' arguments; a new scheduler ends at 0."""
        super().__init__(*args, **kwargs)
        self._end_sigma = 0.0

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
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
        timesteps: Sequence[float] | None = None,
    ) -> None:
        """Take `sigmas` (0-1, strictly decreasing) as they are.

        `mu` is what pipelines hand over for the shift; there is none. The argument names are
        those that pipelines look for. Raises ValueError without sigmas, with timesteps, or when
        a value does not lie above the next.
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
