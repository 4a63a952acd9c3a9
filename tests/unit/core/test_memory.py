"""What fits where, and which wishes go together."""

import sys
from pathlib import Path

import pytest

from glance.core.device import Device
from glance.core.errors import DeviceUnavailable, SetupError, UsageError
from glance.core.memory import Memory, Quantize, activation_bytes, check_memory, choose_memory

GIB = 2**30
# FLUX.1-dev, by huggingface.co/blog/diffusers-quantization
FLUX = {
    "transformer": 23_800_000_000,
    "text_encoder": 246_000_000,
    "text_encoder_2": 9_520_000_000,
    "vae": 168_000_000,
}
FLUX_8BIT = FLUX | {"transformer": 11_900_000_000, "text_encoder_2": 4_900_000_000}


@pytest.fixture
def has_bitsandbytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bitsandbytes.py").touch()
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(
    ("gib", "sizes", "expected"),
    [
        (79, FLUX, Memory.FULL),
        (47, FLUX, Memory.FULL),
        (31, FLUX, Memory.OFFLOAD),
        (23.5, FLUX, Memory.GROUP),
        (23.5, FLUX_8BIT, Memory.FULL),
        (15.5, FLUX_8BIT, Memory.OFFLOAD),
        (11.5, FLUX_8BIT, Memory.GROUP),
    ],
)
def test_a_card_gets_the_quickest_that_fits(
    gib: float, sizes: dict[str, int], expected: Memory
) -> None:
    activations = activation_bytes(1024 * 1024)

    assert choose_memory(sizes, free=int(gib * GIB), activations=activations) is expected


def test_the_estimate_covers_the_measured_peaks() -> None:
    activations = activation_bytes(1024 * 1024)

    bf16, int8 = (sum(sizes.values()) + activations for sizes in (FLUX, FLUX_8BIT))

    assert 36.166 * GIB <= bf16 <= 1.1 * 36.166 * GIB
    assert 21.482 * GIB <= int8 <= 1.1 * 21.482 * GIB


@pytest.mark.parametrize(("free", "expected"), [(160, Memory.FULL), (159, Memory.OFFLOAD)])
def test_what_just_fits_fits(free: int, expected: Memory) -> None:
    sizes = {"transformer": 80, "text_encoder": 40}

    assert choose_memory(sizes, free=free, activations=40) is expected


def test_decoding_must_fit_beside_the_vae() -> None:
    sizes = {"transformer": 30, "text_encoder": 30, "vae": 10}

    assert choose_memory(sizes, free=50, activations=40) is Memory.OFFLOAD
    assert choose_memory(sizes, free=49, activations=40) is Memory.GROUP


def test_activations_grow_with_the_picture_and_with_the_precision() -> None:
    small = activation_bytes(512 * 512)

    assert activation_bytes(1024 * 1024) == 4 * small
    assert activation_bytes(512 * 512, number_bytes=4) == 2 * small


@pytest.mark.parametrize("memory", [Memory.OFFLOAD, Memory.GROUP, Memory.SEQUENTIAL])
@pytest.mark.parametrize("device", [Device.CPU, Device.MPS])
def test_offloading_is_refused_where_there_is_one_memory(memory: Memory, device: Device) -> None:
    with pytest.raises(DeviceUnavailable, match=f"on {device} everything is in system") as refused:
        check_memory(memory, Quantize.NONE, device)

    assert refused.value.problems[0].hint == "drop --memory"


@pytest.mark.parametrize("memory", [Memory.AUTO, Memory.FULL])
@pytest.mark.parametrize("quantize", [Quantize.NONE, Quantize.BIT8, Quantize.FP8])
def test_a_cpu_can_quantize_to_eight_bits(memory: Memory, quantize: Quantize) -> None:
    check_memory(memory, quantize, Device.CPU)


@pytest.mark.parametrize("device", [Device.CPU, Device.MPS])
def test_four_bits_need_cuda_whatever_is_installed(device: Device) -> None:
    with pytest.raises(DeviceUnavailable, match="4bit: it takes a CUDA device") as refused:
        check_memory(Memory.AUTO, Quantize.BIT4, device)

    assert [problem.hint for problem in refused.value.problems] == ["use --quantize 8bit"]


def test_mps_has_no_fp8() -> None:
    with pytest.raises(DeviceUnavailable, match="fp8: mps has no fp8"):
        check_memory(Memory.AUTO, Quantize.FP8, Device.MPS)


@pytest.mark.parametrize(
    ("quantize", "package", "command"),
    [
        (Quantize.BIT4, "bitsandbytes", "in glance's clone: uv sync --extra cuda"),
        (Quantize.BIT8, "torchao", "in glance's clone: uv sync"),
    ],
)
def test_a_missing_package_is_named(
    quantize: Quantize, package: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(SetupError, match=f"{package} is not installed") as refused:
        check_memory(Memory.AUTO, quantize, Device.CUDA)

    assert refused.value.problems[0].hint == command


@pytest.mark.usefixtures("has_bitsandbytes")
@pytest.mark.parametrize("memory", [Memory.GROUP, Memory.SEQUENTIAL])
def test_four_bits_are_not_moved_in_pieces(memory: Memory) -> None:
    with pytest.raises(UsageError, match=f"{memory} does not go with --quantize 4bit"):
        check_memory(memory, Quantize.BIT4, Device.CUDA)


@pytest.mark.usefixtures("has_bitsandbytes")
@pytest.mark.parametrize("memory", [Memory.AUTO, Memory.FULL, Memory.OFFLOAD])
def test_four_bits_are_moved_whole(memory: Memory) -> None:
    check_memory(memory, Quantize.BIT4, Device.CUDA)


@pytest.mark.usefixtures("has_bitsandbytes")
def test_four_bits_are_not_made_of_a_single_file() -> None:
    check_memory(Memory.AUTO, Quantize.BIT8, Device.CUDA, is_single_file=True)

    with pytest.raises(UsageError, match="4bit does not go with a transformer of a single file"):
        check_memory(Memory.AUTO, Quantize.BIT4, Device.CUDA, is_single_file=True)


@pytest.mark.parametrize("memory", Memory)
@pytest.mark.parametrize("quantize", [Quantize.NONE, Quantize.BIT8, Quantize.FP8])
def test_the_rest_goes_together_on_cuda(memory: Memory, quantize: Quantize) -> None:
    check_memory(memory, quantize, Device.CUDA)


def test_all_that_is_wrong_is_listed() -> None:
    with pytest.raises(DeviceUnavailable) as refused:
        check_memory(Memory.GROUP, Quantize.BIT4, Device.CPU, is_single_file=True)

    assert [problem.message for problem in refused.value.problems] == [
        "--memory group: on cpu everything is in system memory already",
        "--quantize 4bit: it takes a CUDA device",
        "--memory group does not go with --quantize 4bit",
        "--quantize 4bit does not go with a transformer of a single file",
    ]


@pytest.mark.parametrize("memory", [Memory.GROUP, Memory.SEQUENTIAL])
def test_what_is_compiled_is_not_moved_in_pieces(memory: Memory) -> None:
    check_memory(Memory.OFFLOAD, Quantize.NONE, Device.CUDA, is_compiled=True)

    with pytest.raises(UsageError, match=f"{memory} does not go with --compile"):
        check_memory(memory, Quantize.NONE, Device.CUDA, is_compiled=True)
