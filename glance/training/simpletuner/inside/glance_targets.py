"""What the trainer's model learns in a distillation: recorded states and their velocities.

SimpleTuner asks `ModelFoundation.sample_flow_sigmas` for a batch's sigmas when the batch's latents
and noise are there; then it makes the noisy latents x = (1 - s) * latents + s * noise, and the
target noise - latents. So for a recorded state x at sigma s and the wanted velocity u

    latents = x - s * u        noise = x + (1 - s) * u

make its own noisy latents x and its own target u. The target is said besides as it is: in half
precision the difference of two rounded sums would be off in the third digit.

A picture's recording is `<folder>/<its name>.safetensors`: `states`, (N + 1, channels, height,
width), float32, at the N sigmas of both phases and at 0. The velocity at a phase's sigma s_j is
that of the one step from there to the next: (x_j - x_j+1) / (s_j - s_j+1).
"""

import inspect
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

_ARGUMENTS = ["self", "batch", "state"]
_NEAR = 1e-4


def teach(foundation, path):
    """Let every model of `foundation` learn what the file at `path` names; refuse what it misfits.

    The file is glance's config/<environment>/targets.json; relative paths are the run folder's,
    where the trainer is started.
    """
    targets = _Targets(json.loads(path.read_text(encoding="utf-8")))
    found = version("simpletuner")
    if found != targets.simpletuner:
        _refuse(f"it is made for SimpleTuner {targets.simpletuner}, this is {found}")
    sample = foundation.sample_flow_sigmas
    if list(inspect.signature(sample).parameters) != _ARGUMENTS:
        _refuse(f"sample_flow_sigmas{inspect.signature(sample)} is not as it was")

    def sample_flow_sigmas(self, batch, state):
        if type(self).sample_flow_sigmas is not sample_flow_sigmas:
            _refuse(f"{type(self).__name__} samples sigmas in its own way")
        sigmas, timesteps = sample(self, batch=batch, state=state)
        targets.set(batch, sigmas)
        return sigmas, timesteps

    foundation.sample_flow_sigmas = sample_flow_sigmas


class _Targets:
    """The recordings, and how many batches were made of them."""

    def __init__(self, document):
        self.simpletuner = document["simpletuner"]
        self._folder = Path(document["folder"])
        self._sigmas = document["sigmas"]
        self._receipt = Path(document["receipt"])
        self._guidance = document.get("guidance")
        self._is_noted = False

    def set(self, batch, sigmas):
        """Put the batch's states, noise and targets in place."""
        import torch

        if batch.get("target") is not None:
            _refuse("a batch has a target already")
        latents = batch["latents"]
        items = zip(batch["filepaths"], sigmas.tolist(), strict=True)
        states, velocities = zip(*(self._read(Path(name), sigma) for name, sigma in items))
        if len({one.shape for one in states}) > 1:
            _refuse("a batch has images of several sizes")
        state = torch.stack(states).to(latents.device)
        velocity = torch.stack(velocities).to(latents.device)
        if state.shape[:2] != latents.shape[:2] or state.ndim != latents.ndim:
            _refuse(f"its latents are {tuple(latents.shape)}, the recorded {tuple(state.shape)}")
        level = sigmas.to(state).view(-1, *[1] * (state.ndim - 1))
        batch["latents"] = (state - level * velocity).to(latents.dtype)
        batch["noise"] = (state + (1 - level) * velocity).to(latents.dtype)
        batch["input_noise"] = batch["noise"]
        batch["target"] = velocity
        if self._guidance is not None:
            batch["guidance"] = torch.full((len(state),), self._guidance, device=latents.device)
        if not self._is_noted:  # glance takes no LoRA without it
            self._is_noted = True
            self._receipt.write_text("recorded targets are in use\n", encoding="utf-8")

    def _read(self, picture, sigma):
        """Return the state at `sigma` and the velocity of the step from there."""
        from safetensors import SafetensorError, safe_open

        place = min(range(len(self._sigmas) - 1), key=lambda j: abs(self._sigmas[j] - sigma))
        here, there = self._sigmas[place], self._sigmas[place + 1]
        if abs(here - sigma) > _NEAR:
            _refuse(f"nothing is recorded at sigma {sigma}")
        path = self._folder / picture.with_suffix(".safetensors").name
        try:
            with safe_open(path, framework="pt") as recording:
                begin, end = recording.get_slice("states")[place : place + 2]
        except (OSError, ValueError, SafetensorError) as exc:
            _refuse(f"{path} cannot be read: {exc}")
        return begin, (begin - end) / (here - there)


def _refuse(why):
    """End this process at once: never go on to an ordinary training."""
    sys.stderr.write(f"glance cannot teach SimpleTuner: {why}\n")
    sys.stderr.flush()
    os._exit(1)
