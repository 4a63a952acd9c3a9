"""An imported pair gives what its files give."""

from collections.abc import Callable
from pathlib import Path

from PIL import Image
from safetensors.torch import load_file, save_file


def generate(invoke: Callable, *arguments: object) -> bytes:
    size = ("--width", 64, "--height", 64, "--output", "x.png", "--quiet")
    done = invoke("infer", "--prompt", "a hill", *arguments, *size)
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


def test_a_foreign_pair_gives_the_same_before_and_after(
    invoke: Callable, tiny_flux: Path, loras: dict[str, Path]
) -> None:
    names = {phase: Path(f"{phase}.safetensors") for phase in loras}
    for phase, path in loras.items():
        write_kohya(path, names[phase], alpha=8)  # rank 4
    files = ("--slow-lora", names["slow"], "--fast-lora", names["fast"], "--model", tiny_flux)

    done = invoke("import", *files, "--schedule", "guide", "--run", "r")

    assert done.code == 0, done.err
    assert generate(invoke, "--run", "r") == generate(invoke, *files, "--schedule", "guide")
