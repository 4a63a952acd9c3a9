"""Whose a single file is, by the names in its header."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from glance.core.errors import ModelNotFound, SettingsError
from glance.models.base import BaseModel, detect_family
from glance.models.checkpoint import is_checkpoint, read_checkpoint
from glance.models.families import FAMILIES, Family

LAYOUTS = [
    pytest.param(family, getattr(family.marks, layout), id=f"{family.name}-{layout}")
    for family in FAMILIES.values()
    for layout in ("diffusers", "original")
    if getattr(family.marks, layout)
]


def write(*names: str, prefix: str = "", dtype: type = np.float16, to: str = "") -> Path:
    path = Path(to or "x.safetensors")
    save_file({f"{prefix}{name}": np.zeros(2, dtype) for name in names}, path)
    return path


def test_a_file_is_told_by_its_ending() -> None:
    assert all(map(is_checkpoint, ("x.safetensors", "/models/X.SAFETENSORS", "flux.gguf")))
    assert not any(map(is_checkpoint, ("black-forest-labs/FLUX.1-dev", "models/flux")))


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model."])
@pytest.mark.parametrize(("family", "marks"), LAYOUTS)
def test_every_layout_is_recognised(family: Family, marks: tuple[str, ...], prefix: str) -> None:
    found = read_checkpoint(write(*marks, "and.more.weight", prefix=prefix))

    assert family in found.families
    assert found.prefix == prefix
    assert detect_family("x.safetensors") is found.families[0]


def test_other_parts_of_a_whole_checkpoint_do_not_disturb() -> None:
    own = [f"model.diffusion_model.{name}" for name in FAMILIES["sd3"].marks.original]

    found = read_checkpoint(write(*own, "first_stage_model.down_blocks.0"))

    assert found.families == (FAMILIES["sd3"],)


def test_families_whose_tensors_have_the_same_names_are_all_told() -> None:
    found = read_checkpoint(write(*FAMILIES["qwen_image"].marks.diffusers))

    names = ("qwen_image", "qwen_image_edit_2509", "qwen_image_edit_2511")
    assert found.families == tuple(FAMILIES[name] for name in names)
    for family in found.families:
        model = BaseModel.resolve("x.safetensors", family=family.name)
        assert model.record(Path("runs/cat")) == (family.default_model, "../../x.safetensors")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["transformer.a.lora_A.weight"], "is a LoRA, not a model"),
        (["lora_unet_a.lora_down.weight"], "is a LoRA, not a model"),
        (["controlnet_x_embedder.weight"], "is a ControlNet"),
        (["input_blocks.0.weight"], r"is a UNet \(SD 1.5, SD 2, SDXL\), which is no flow model"),
        (["something.else"], "is of no supported family, by the names of its tensors"),
    ],
)
def test_what_is_no_transformer_of_ours_is_refused(names: list[str], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        read_checkpoint(write(*names))


def test_formats_that_cannot_be_trained_on_are_refused() -> None:
    with pytest.raises(SettingsError, match="is quantised to U8, which diffusers cannot read"):
        read_checkpoint(write(*FAMILIES["flux"].marks.original, dtype=np.uint8))
    for name in ("flux.gguf", "flux.ckpt"):
        with pytest.raises(SettingsError, match=r"SimpleTuner does not train on \.(gguf|ckpt) fi"):
            read_checkpoint(Path(name))


def test_a_damaged_or_missing_file_is_not_found() -> None:
    with pytest.raises(ModelNotFound, match=r"^model x\.safetensors: not found$"):
        read_checkpoint(Path("x.safetensors"))
    for content in (b"", b"no header at all", b"\xff" * 64):
        Path("x.safetensors").write_bytes(content)
        with pytest.raises(ModelNotFound, match=r"^model x\.safetensors cannot be read"):
            read_checkpoint(Path("x.safetensors"))


class TestWithItsBase:
    family = FAMILIES["flux"]

    @pytest.fixture(autouse=True)
    def _file(self) -> None:
        Path("files").mkdir()
        write(*self.family.marks.original, to="files/mine.safetensors")

    def locate(self, model: str | None, base: str | None = None) -> tuple[str, str | None]:
        found = BaseModel.resolve(model, base=base, family=self.family.name)
        return found.record(Path("runs/cat"))

    def test_the_rest_comes_from_the_familys_default_or_the_base_that_is_given(self) -> None:
        located = self.locate("files/mine.safetensors")

        assert located == (self.family.default_model, "../../~3d7d/mine.safetensors")
        assert self.locate("files/mine.safetensors", "acme/flux")[0] == "acme/flux"

    def test_a_base_without_a_file_is_refused(self) -> None:
        with pytest.raises(SettingsError, match="--pipeline goes with a single file in --model"):
            self.locate("acme/flux", "acme/other")

    def test_a_file_of_another_family_is_refused(self) -> None:
        write(*FAMILIES["sd3"].marks.original, to="files/mine.safetensors")

        with pytest.raises(
            SettingsError, match=r"is a file of Stable Diffusion 3.5, not of FLUX.1"
        ):
            self.locate("files/mine.safetensors")

    def test_the_run_finds_it_again_and_knows_it_from_another(self) -> None:
        def found() -> BaseModel:
            return BaseModel.recorded(
                "acme/flux", "../../files/mine.safetensors", family="flux", start=Path("runs/cat")
            )

        path = found().transformer
        assert path is not None
        assert path.samefile("files/mine.safetensors")
        before = found().fingerprint

        write("another", to="files/mine.safetensors")

        assert found().fingerprint != before
        path.unlink()
        with pytest.raises(ModelNotFound, match="the run's transformer is not at"):
            found()
