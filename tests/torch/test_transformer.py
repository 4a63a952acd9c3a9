"""A single file becomes the transformer that it holds, and never the base's."""

from collections.abc import Callable
from pathlib import Path

import diffusers
import pytest
import torch
from tiny_models import build_tiny, layouts

from glance.core.device import Device, Precision
from glance.core.errors import ModelNotFound
from glance.models.base import BaseModel
from glance.models.checkpoint import Checkpoint, read_checkpoint
from glance.models.families import FAMILIES
from glance.sampling.pipeline.load import Fit, load_pipeline, load_transformer, write_transformer


@pytest.fixture
def base(tiny: Callable[[str], Path]) -> str:
    return str(tiny("z_image"))


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> layouts.Tensors:
    """What the file holds: another model's transformer."""
    other = build_tiny("z_image", tmp_path_factory.mktemp("z_image") / "model", seed=2)
    return layouts.weights(other)


def read(tensors: layouts.Tensors, prefix: str = "") -> Checkpoint:
    return read_checkpoint(layouts.write(tensors, Path("x.safetensors"), prefix=prefix))


def same(transformer: torch.nn.Module, expected: layouts.Tensors, *, within: float = 0.0) -> bool:
    found = transformer.state_dict()
    return found.keys() == expected.keys() and all(
        torch.allclose(found[name].float(), expected[name].float(), rtol=within, atol=within / 50)
        for name in expected
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_diffusers_layout_is_read(name: str, tiny: Callable[[str], Path], tmp_path: Path) -> None:
    expected = layouts.weights(build_tiny(name, tmp_path / "other", seed=2))
    file = read(expected, layouts.COMFY)

    assert name in [family.name for family in file.families]
    assert same(load_transformer(file, str(tiny(name))), expected)


def test_fp8_is_kept_and_scaled_fp8_multiplied_out(base: str, expected: layouts.Tensors) -> None:
    eight = layouts.in_fp8(expected)
    transformer = load_transformer(read(eight), base, torch.float32)
    assert same(transformer, eight)
    assert {tensor.dtype for tensor in transformer.parameters()} == {torch.float32}

    scaled = layouts.in_scaled_fp8(layouts.original_z_image(expected))
    # three bits of mantissa: up to 1/16 off
    assert same(load_transformer(read(scaled, layouts.COMFY), base), expected, within=0.07)


def test_a_file_that_does_not_fit_is_refused(base: str, expected: layouts.Tensors) -> None:
    lacking = {key: expected[key] for key in expected if key != "layers.0.attention.to_k.weight"}
    wide = {**expected, "cap_pad_token": torch.zeros(1, 48)}
    for tensors, said in ((lacking, "(lacks 1 tensors that|does not fit)"), (wide, "does not fit")):
        with pytest.raises(ModelNotFound, match=rf"x.safetensors {said}"):
            load_transformer(read(tensors), base)


@pytest.mark.parametrize("prefix", ["", layouts.COMFY])
def test_the_original_layout_is_written_as_a_folder_that_diffusers_loads(
    base: str, expected: layouts.Tensors, prefix: str
) -> None:
    file = read(layouts.original_z_image(expected), prefix)

    write_transformer(file, base, Path("transformer"))

    assert same(diffusers.ZImageTransformer2DModel.from_pretrained("transformer"), expected)
    assert not list(Path().glob("*.unfinished"))


def test_the_pipeline_has_the_files_transformer(base: str, expected: layouts.Tensors) -> None:
    layouts.write(layouts.original_z_image(expected), Path("x.safetensors"))

    fit = Fit(device=Device.CPU, dtype=Precision.FP32)
    model = BaseModel(FAMILIES["z_image"], base, Path("x.safetensors"))
    pipeline, *_ = load_pipeline(model, {}, fit)

    assert same(pipeline.transformer, expected)
