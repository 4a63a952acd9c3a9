"""A single file becomes the transformer that it holds, and never the base's."""

from pathlib import Path

import diffusers
import pytest
import torch
from tiny_models import build_tiny, layouts

from glance.core.device import Device, Precision
from glance.core.errors import ModelNotFound
from glance.models.base import BaseModel
from glance.models.checkpoint import read_checkpoint
from glance.models.families import FAMILIES
from glance.sampling.pipeline.load import Fit, load_pipeline, load_transformer, write_transformer


@pytest.fixture(scope="module")
def z_images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base, and another model whose transformer is the file's."""
    folder = tmp_path_factory.mktemp("z_image")
    return tuple(build_tiny("z_image", folder / str(seed), seed=seed) for seed in (1, 2))


def same(transformer: torch.nn.Module, expected: layouts.Tensors, *, within: float = 0.0) -> bool:
    found = transformer.state_dict()
    return found.keys() == expected.keys() and all(
        torch.allclose(found[name].float(), expected[name].float(), rtol=within, atol=within / 50)
        for name in expected
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_read_in_diffusers_layout(name: str, tmp_path: Path) -> None:
    base, other = (build_tiny(name, tmp_path / str(seed), seed=seed) for seed in (1, 2))
    expected = layouts.weights(other)
    file = read_checkpoint(layouts.write(expected, Path("x.safetensors"), prefix=layouts.COMFY))

    assert name in [family.name for family in file.families]
    assert same(load_transformer(file, str(base)), expected)


@pytest.mark.parametrize("prefix", ["", layouts.COMFY])
def test_the_original_layout_is_read(z_images: tuple[Path, Path], prefix: str) -> None:
    base, other = z_images
    expected = layouts.weights(other)
    original = layouts.original_z_image(expected)
    file = read_checkpoint(layouts.write(original, Path("x.safetensors"), prefix=prefix))

    assert same(load_transformer(file, str(base)), expected)


def test_fp8_keeps_its_values_and_scaled_fp8_is_multiplied_out(
    z_images: tuple[Path, Path],
) -> None:
    base, other = z_images
    eight = layouts.in_fp8(layouts.weights(other))
    file = read_checkpoint(layouts.write(eight, Path("x.safetensors")))
    transformer = load_transformer(file, str(base), torch.float32)
    assert same(transformer, eight)
    assert {tensor.dtype for tensor in transformer.parameters()} == {torch.float32}

    scaled = layouts.in_scaled_fp8(layouts.original_z_image(layouts.weights(other)))
    file = read_checkpoint(layouts.write(scaled, Path("y.safetensors"), prefix=layouts.COMFY))
    # three bits of mantissa: up to 1/16 off
    assert same(load_transformer(file, str(base)), layouts.weights(other), within=0.07)


def test_a_file_that_does_not_fit_is_refused(z_images: tuple[Path, Path]) -> None:
    base, other = z_images
    lacking = layouts.weights(other)
    del lacking["layers.0.attention.to_k.weight"]
    wide = {**layouts.weights(other), "cap_pad_token": torch.zeros(1, 48)}
    for tensors, said in ((lacking, "(lacks 1 tensors that|does not fit)"), (wide, "does not fit")):
        file = read_checkpoint(layouts.write(tensors, Path("x.safetensors")))
        with pytest.raises(ModelNotFound, match=rf"x.safetensors {said}"):
            load_transformer(file, str(base))


def test_it_is_written_as_a_folder_that_diffusers_loads(z_images: tuple[Path, Path]) -> None:
    base, other = z_images
    expected = layouts.weights(other)
    original = layouts.original_z_image(expected)
    file = read_checkpoint(layouts.write(original, Path("x.safetensors"), prefix=layouts.COMFY))

    write_transformer(file, str(base), Path("transformer"))

    assert same(diffusers.ZImageTransformer2DModel.from_pretrained("transformer"), expected)
    assert not list(Path().glob("*.unfinished"))


def test_the_pipeline_is_the_bases_with_the_files_transformer(z_images: tuple[Path, Path]) -> None:
    base, other = z_images
    expected = layouts.weights(other)
    layouts.write(layouts.original_z_image(expected), Path("x.safetensors"))

    fit = Fit(device=Device.CPU, dtype=Precision.FP32)
    model = BaseModel(FAMILIES["z_image"], str(base), Path("x.safetensors"))
    pipeline, *_ = load_pipeline(model, {}, fit)

    assert same(pipeline.transformer, expected)
