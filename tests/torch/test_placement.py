"""Where the parts are while a picture is made; on a CPU that pretends to have a GPU beside it."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline
from diffusers.hooks import group_offloading
from diffusers.hooks.group_offloading import GroupOffloadingHook, ModuleGroup
from torch._subclasses.fake_tensor import FakeTensorMode

from glance.core.device import Device, Memory
from glance.sampling.pipeline.memory import place, staying_placed

PARTS = ("text_encoder", "text_encoder_2", "transformer", "vae")
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def pipeline(tiny_flux: Path, loras: dict[str, Path]) -> Any:
    pipeline = FluxPipeline.from_pretrained(tiny_flux)
    pipeline.set_progress_bar_config(disable=True)
    for name, path in loras.items():
        pipeline.load_lora_weights(path.parent, weight_name=path.name, adapter_name=name)
    return pipeline


def generate(pipeline: Any, adapter: str) -> torch.Tensor:
    pipeline.set_adapters(adapter)
    return pipeline(
        "a lighthouse",
        width=64,
        height=64,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(3),
        output_type="latent",
    ).images


def count_offloads(pipeline: Any) -> list[None]:
    """Return a list that grows each time all parts are sent back to system memory."""
    calls: list[None] = []
    original = pipeline.enable_model_cpu_offload

    def counting(*args: Any, **kwargs: Any) -> None:
        calls.append(None)
        original(*args, **kwargs)

    pipeline.enable_model_cpu_offload = counting
    return calls


@pytest.mark.parametrize("memory", [Memory.OFFLOAD, Memory.GROUP])
def test_offloading_changes_no_picture(memory: Memory, pipeline: Any) -> None:
    expected = [generate(pipeline, adapter) for adapter in ("slow", "fast")]

    used = place(pipeline, Device.CPU, memory, pixels=64 * 64)

    assert used is memory
    assert (expected[0] - expected[1]).abs().mean() > 0.01
    for adapter, picture in zip(("slow", "fast"), expected, strict=True):
        torch.testing.assert_close(generate(pipeline, adapter), picture)


@pytest.mark.parametrize("device", [Device.CPU, Device.MPS])
def test_one_memory_means_full(
    device: Device, pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[str] = []
    monkeypatch.setattr(pipeline, "to", moved.append)

    assert place(pipeline, device, Memory.AUTO, pixels=64 * 64) is Memory.FULL
    assert moved == [device]


@pytest.mark.parametrize(
    ("context", "inside", "afterwards"), [(nullcontext, 2, 2), (staying_placed, 0, 1)]
)
def test_staying_placed_sends_the_parts_back_once(
    context: Any, inside: int, afterwards: int, pipeline: Any
) -> None:
    place(pipeline, Device.CPU, Memory.OFFLOAD, pixels=64 * 64)
    offloads = count_offloads(pipeline)

    with context(pipeline):
        for adapter in ("slow", "fast"):
            generate(pipeline, adapter)
        counted = len(offloads)

    assert (counted, len(offloads)) == (inside, afterwards)


def test_parts_are_sent_back_after_a_failure_too(pipeline: Any) -> None:
    place(pipeline, Device.CPU, Memory.OFFLOAD, pixels=64 * 64)
    offloads = count_offloads(pipeline)

    with pytest.raises(ZeroDivisionError), staying_placed(pipeline):
        raise ZeroDivisionError

    assert len(offloads) == 1
    assert pipeline.maybe_free_model_hooks.__func__ is FluxPipeline.maybe_free_model_hooks


# What follows computes nothing: tensors have a shape, and a device that is checked in every
# operation as a real one would be. Only torch's and diffusers' way of moving a parameter in place
# does not know such tensors, and is replaced.


@pytest.fixture
def pretended(pipeline: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The pipeline in the CPU's memory of a machine that has a GPU."""
    monkeypatch.setattr(torch.nn.Module, "_apply", replace_tensors)
    monkeypatch.setattr(ModuleGroup, "_onload_from_memory", lambda group: move(group, CUDA))
    monkeypatch.setattr(ModuleGroup, "_offload_to_memory", lambda group: move(group, CPU))
    with FakeTensorMode(), torch.no_grad():
        for name in PARTS:
            getattr(pipeline, name)._apply(lambda old: torch.empty(old.shape, dtype=old.dtype))
        yield pipeline


def replace_tensors(module: Any, change: Any, recurse: bool = True) -> Any:
    for child in module.children() if recurse else ():
        child._apply(change)
    for name, old in module._parameters.items():
        if old is not None:
            module._parameters[name] = torch.nn.Parameter(change(old), requires_grad=False)
    for name, old in module._buffers.items():
        if old is not None:
            module._buffers[name] = change(old)
    return module


def move(group: ModuleGroup, device: torch.device) -> None:
    of_modules = [tensor for module in group.modules for tensor in module.parameters()]
    of_modules += [tensor for module in group.modules for tensor in module.buffers()]
    for tensor in [*of_modules, *group.parameters, *group.buffers]:
        tensor.fake_device = device


def on_gpu(pipeline: Any) -> set[str]:
    """Return the names of the parts that have any weight there."""
    return {
        name
        for name in PARTS
        if CUDA in {tensor.device for tensor in getattr(pipeline, name).parameters()}
    }


def read(pipeline: Any) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.zeros(1, 16, dtype=torch.long, device=CUDA)
    pooled = pipeline.text_encoder(tokens).pooler_output
    return pooled, pipeline.text_encoder_2(tokens)[0]


def denoise(pipeline: Any, text: tuple[torch.Tensor, torch.Tensor], adapter: str) -> torch.Tensor:
    pipeline.set_adapters(adapter)
    return pipeline.transformer(
        hidden_states=torch.zeros(1, 16, 64, device=CUDA),
        timestep=torch.ones(1, device=CUDA),
        guidance=torch.ones(1, device=CUDA),
        pooled_projections=text[0],
        encoder_hidden_states=text[1],
        txt_ids=torch.zeros(16, 3, device=CUDA),
        img_ids=torch.zeros(16, 3, device=CUDA),
    ).sample


def decode(pipeline: Any) -> torch.Tensor:
    return pipeline.vae.decode(torch.zeros(1, 16, 8, 8, device=CUDA)).sample


def test_offloaded_parts_take_turns(pretended: Any) -> None:
    place(pretended, Device.CUDA, Memory.OFFLOAD, pixels=64 * 64)

    stages = [on_gpu(pretended)]
    text = read(pretended)
    stages.append(on_gpu(pretended))
    denoise(pretended, text, "slow")
    stages.append(on_gpu(pretended))
    decode(pretended)
    stages.append(on_gpu(pretended))

    assert stages == [set(), {"text_encoder_2"}, {"transformer"}, {"vae"}]


def test_the_transformer_stays_between_the_phases(pretended: Any) -> None:
    place(pretended, Device.CUDA, Memory.OFFLOAD, pixels=64 * 64)

    with staying_placed(pretended):
        text = read(pretended)
        denoise(pretended, text, "slow")
        pretended.maybe_free_model_hooks()  # as the pipeline's first call ends
        between = on_gpu(pretended)
        denoise(pretended, text, "fast")
        decode(pretended)

    assert (between, on_gpu(pretended)) == ({"transformer"}, set())


def test_in_groups_every_layer_is_where_it_computes_and_leaves(pretended: Any) -> None:
    place(pretended, Device.CUDA, Memory.GROUP, pixels=64 * 64)

    text = read(pretended)
    made = [denoise(pretended, text, adapter) for adapter in ("slow", "fast", "fast")]
    made.append(decode(pretended))

    assert {tensor.device for tensor in made} == {CUDA}
    assert on_gpu(pretended) == {"vae"}
    assert pretended._execution_device == torch.device("cuda")


class PretendedStream:
    def synchronize(self) -> None: ...


class PretendedStreams:
    """In place of a GPU's: what is asked of them is done at once."""

    Stream = current_stream = PretendedStream

    def __init__(self, device: torch.device) -> None: ...

    def stream(self, _: PretendedStream) -> nullcontext[None]:
        return nullcontext()


def count_late(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return a list that says of each group, when it is run, whether it must still be fetched."""
    late: list[bool] = []
    original = GroupOffloadingHook.pre_forward

    def counting(hook: Any, module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        if hook.group.stream is not None:
            weights = [tensor for part in hook.group.modules for tensor in part.parameters()]
            late.append(CPU in {tensor.device for tensor in weights})
        return original(hook, module, *args, **kwargs)

    monkeypatch.setattr(GroupOffloadingHook, "pre_forward", counting)
    return late


def test_blocks_are_fetched_ahead_in_both_phases(
    pretended: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(group_offloading, "TorchDeviceBackend", PretendedStreams)
    monkeypatch.setattr(ModuleGroup, "_init_cpu_param_dict", lambda _: {})
    late = count_late(monkeypatch)
    place(pretended, Device.CUDA, Memory.GROUP, pixels=64 * 64)
    text = read(pretended)
    denoise(pretended, text, "slow")  # the first pass learns the order
    first = len(late)

    for adapter in ("slow", "fast", "fast"):
        denoise(pretended, text, adapter)

    # with single layers, a third of them would come late in the fast phase
    assert late == [True] * first + [False] * 3 * first
    assert first == 2  # the tiny model's blocks


def test_full_puts_everything_there(pretended: Any) -> None:
    place(pretended, Device.CUDA, Memory.FULL, pixels=64 * 64)

    assert on_gpu(pretended) == set(PARTS)


@pytest.mark.parametrize(
    ("free", "expected"),
    [(10**9, Memory.FULL), (400_000, Memory.OFFLOAD), (200_000, Memory.GROUP)],
)
def test_auto_takes_what_fits_into_free_memory(
    free: int, expected: Memory, pretended: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, 10**9))

    assert place(pretended, Device.CUDA, Memory.AUTO, pixels=1) is expected


def test_auto_counts_what_is_there_already(pretended: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (500_000, 10**9))
    assert place(pretended, Device.CUDA, Memory.AUTO, pixels=1) is Memory.OFFLOAD
    pretended.remove_all_hooks()

    pretended.transformer.to("cuda")  # as bitsandbytes leaves it

    assert place(pretended, Device.CUDA, Memory.AUTO, pixels=1) is Memory.FULL


def test_auto_does_not_move_four_bits_in_pieces(
    pretended: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (0, 10**9))
    pretended.transformer.is_loaded_in_4bit = True

    assert place(pretended, Device.CUDA, Memory.AUTO, pixels=1) is Memory.OFFLOAD
