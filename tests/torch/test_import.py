"""An imported pair paints what its files paint, and an imported config trains as it says."""

import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path

from fakes.guide import write_guide
from PIL import Image
from safetensors.torch import load_file, save_file


def paint(glance: Callable, *arguments: object) -> bytes:
    size = ("--width", 64, "--height", 64, "--output", "x.png", "--quiet")
    done = glance("infer", "--prompt", "a hill", *arguments, *size)
    assert done.code == 0, done.err
    pixels = Image.open("x.png").tobytes()
    Path("x.png").unlink()
    return pixels


def write_kohya(source: Path, path: Path, alpha: float) -> None:
    """Write a LoRA as kohya's trainers do: other names, and an alpha tensor a layer."""
    tensors = {}
    for key, tensor in load_file(source).items():
        stem, half = key.removeprefix("transformer.").split(".lora_")
        stem = f"lora_unet_{stem.replace('.', '_')}"
        tensors[f"{stem}.lora_{'down' if half.startswith('A') else 'up'}.weight"] = tensor
        tensors[f"{stem}.alpha"] = tensor.new_tensor(alpha)
    save_file(tensors, path)


def test_a_foreign_pair_paints_the_same_before_and_after(
    glance: Callable, tiny_flux: Path, loras: dict[str, Path]
) -> None:
    names = {phase: Path(f"{phase}.safetensors") for phase in loras}
    for phase, path in loras.items():
        write_kohya(path, names[phase], alpha=8)  # rank 4
    files = ("--slow-lora", names["slow"], "--fast-lora", names["fast"], "--model", tiny_flux)

    done = glance("import", *files, "--schedule", "seed", "--run", "r")

    assert done.code == 0, done.err
    assert paint(glance, "--run", "r") == paint(glance, *files, "--schedule", "seed")


def test_the_guides_files_train_as_they_say(glance: Callable, tiny_flux: Path) -> None:
    model = os.path.relpath(tiny_flux, "guide")  # as SimpleTuner takes it, from where it is started
    write_guide(pretrained_model_name_or_path=model, max_train_steps=10, lora_rank=4)
    line = glance("import", "guide", "--device", "cpu", "--quiet").out

    done = glance(*shlex.split(line)[1:], "--dry-run", "--json")

    assert done.code == 0, done.err
    manifest = json.loads(Path("runs/glance/glance.json").read_text())
    assert len(manifest["base_model"]) == 64  # the folder's fingerprint
    assert '"lora_alpha": 16.0' in done.out
