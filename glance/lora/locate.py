"""Which file a user means by a LoRA: itself, in a folder, or on the Hub."""

from pathlib import Path

from glance.errors import LoraError
from glance.hub import find_hub_file
from glance.run import LORA_FILE


def locate_lora(name: str) -> Path:
    """Return the file: `name` itself, that in the folder, or owner/repo:file of the Hub, fetched.

    Raises LoraError when there is none.
    """
    path = Path(name).expanduser()
    file = path / LORA_FILE if path.is_dir() else path
    if file.exists():
        return file
    fetched = find_hub_file(name, default=LORA_FILE)
    if fetched is None:
        raise LoraError(
            f"LoRA not found: {file}",
            hint="give a .safetensors file, its folder, or owner/repo:file.safetensors of the Hub",
        )
    return fetched
