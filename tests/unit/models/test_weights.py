"""How many parameters a model has, without loading it."""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from glance.models.base import BaseModel
from glance.models.families import find_family


def write(path: str, millions: int) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    save_file({"a": np.zeros((millions, 1000, 1000), np.int8), "b": np.zeros(3)}, path)


def test_a_folder_is_counted_part_by_part() -> None:
    write("model/transformer/part-1.safetensors", 2)
    write("model/transformer/part-2.safetensors", 3)
    write("model/text_encoder/model.safetensors", 1)
    write("model/text_encoder_2/model.safetensors", 4)
    write("model/vae/model.safetensors", 9)

    found = BaseModel(find_family("flux"), "model").weights

    assert (found.transformer, found.text_encoders) == (0.005, (0.001, 0.004))


def test_a_single_file_takes_the_transformers_place() -> None:
    write("mine.safetensors", 2)

    found = BaseModel(find_family("flux"), "acme/x", Path("mine.safetensors")).weights

    assert (found.transformer, found.text_encoders) == (0.002, (0.12, 4.76))


def test_a_hub_model_is_known_by_its_name() -> None:
    sd3 = find_family("sd3")

    assert BaseModel(sd3, sd3.default_model).weights.transformer == 2.24
    large = "stabilityai/stable-diffusion-3.5-large"
    assert BaseModel(sd3, large).weights.transformer == 8.06


def test_a_damaged_file_counts_nothing() -> None:
    Path("model/transformer").mkdir(parents=True)
    for number, content in enumerate((b"", b"\xff" * 40, b"\x02" + bytes(7) + b"[]")):
        Path(f"model/transformer/{number}.safetensors").write_bytes(content)

    assert BaseModel(find_family("flux"), "model").weights.transformer == 0
