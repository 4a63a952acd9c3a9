"""Which LoRA works: how one of them gives way to the other, or to the base model alone."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol

import torch

from glance.core.phase import Phase
from glance.models.lora.file import PREFIX
from glance.models.lora.pairs import adapter_config
from glance.sampling.pipeline.adapters import PreparedLora, load_adapter, prepare_adapter

_SWAPPED: Final = "pair"


class Loras(Protocol):
    """The LoRAs of a pipeline."""

    def use(self, pipeline: Any, phase: Phase, *, scale: float) -> None:
        """Let the phase's LoRA work alone, at `scale` times its own strength."""
        ...

    def leave(self, pipeline: Any) -> None:
        """Let the base model work alone."""
        ...


class ResidentLoras:
    """Both are adapters of the pipeline, named as their phase: switching moves no weights."""

    def __init__(self, base: Sequence[str] = ()) -> None:
        """Take the adapters that belong to the base model."""
        self._base = list(base)

    def use(self, pipeline: Any, phase: Phase, *, scale: float) -> None:
        """See Loras."""
        pipeline.enable_lora()
        pipeline.set_adapters(phase.value, scale)

    def leave(self, pipeline: Any) -> None:
        """See Loras."""
        if self._base:
            pipeline.enable_lora()
            pipeline.set_adapters(self._base)
        elif pipeline.get_list_adapters():
            pipeline.disable_lora()


class SwappedLoras:
    """One adapter whose weights are exchanged in place: a compiled model does not notice.

    Switching adapters, or changing the scale of one, changes what torch.compile has taken for
    constant, and it would compile again. So the scale is multiplied into the weights, and the base
    model alone is an adapter of zeros.
    """

    def __init__(self, prepared: Mapping[Phase, PreparedLora]) -> None:
        """Take LoRAs that are `level`: the same layers, the same rank."""
        self._prepared = prepared
        self._active: tuple[Phase, float] | None = None

    def use(self, pipeline: Any, phase: Phase, *, scale: float) -> None:
        """See Loras."""
        if self._active == (phase, scale):
            return
        lora = self._prepared[phase]
        pipeline.transformer.load_lora_adapter(
            {
                key: tensor * scale if ".lora_B." in key and scale != 1 else tensor
                for key, tensor in lora.state.items()
            },
            prefix=PREFIX.removesuffix("."),
            adapter_name=_SWAPPED,
            metadata=dict(lora.metadata),
            hotswap=True,
        )
        self._active = (phase, scale)

    def leave(self, pipeline: Any) -> None:
        """See Loras."""
        self.use(pipeline, next(iter(self._prepared)), scale=0.0)


def load_resident(
    pipeline: Any, loras: Mapping[Phase, Path], base_loras: Sequence[Path] = ()
) -> Loras:
    """Load each file as an adapter of its own; raises LoraError.

    Those of `base_loras` work together wherever none of the pair's does.
    """
    named = {f"base-{number}": path for number, path in enumerate(base_loras, 1)}
    for name, path in {**{phase.value: path for phase, path in loras.items()}, **named}.items():
        load_adapter(pipeline, path, name=name)
    return ResidentLoras(tuple(named))


def load_swapped(pipeline: Any, loras: Mapping[Phase, Path]) -> Loras:
    """Load one adapter that takes the weights of any of the files in turn; raises LoraError."""
    if not loras:
        return ResidentLoras()
    prepared = level({phase: prepare_adapter(pipeline, path) for phase, path in loras.items()})
    first = next(iter(prepared.values()))
    # PEFT takes the tensors themselves as weights: what is swapped in later must not overwrite them
    own = replace(first, state={key: tensor.clone() for key, tensor in first.state.items()})
    load_adapter(pipeline, own, name=_SWAPPED)
    pipeline.set_adapters(_SWAPPED)
    return SwappedLoras(prepared)


def level(prepared: Mapping[Phase, PreparedLora]) -> dict[Phase, PreparedLora]:
    """Return the LoRAs with the layers of all of them and the largest rank, filled up with zeros.

    What they do stays the same, but for how sums with zeros in them round.
    """
    rank = max(lora.rank for lora in prepared.values())
    models = {key: tensor for lora in prepared.values() for key, tensor in lora.state.items()}
    layers = {key.removeprefix(PREFIX).rsplit(".lora_", 1)[0] for key in models}
    return {
        phase: PreparedLora(
            {key: _padded(lora.state.get(key), models[key], rank, key) for key in models},
            adapter_config(dict.fromkeys(sorted(layers), rank)),
            rank,
        )
        for phase, lora in prepared.items()
    }


def _padded(tensor: torch.Tensor | None, model: torch.Tensor, rank: int, key: str) -> torch.Tensor:
    """Return A, (rank, in), or B, (out, rank), with zeros where `tensor` has nothing."""
    is_down = ".lora_A." in key
    shape = (rank, model.shape[1]) if is_down else (model.shape[0], rank)
    whole = torch.zeros(shape, dtype=model.dtype)
    if tensor is not None:
        whole[: tensor.shape[0], : tensor.shape[1]] = tensor
    return whole
