"""Which file a user means by a LoRA: itself, in a folder, of a run, or on the Hub.

What is on this disk is never looked for on the Hub, where a stranger may have its name.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from glance.core.errors import LoraError, quoted, reason_of
from glance.core.hub import fetch_beside, find_hub_file, name_address, split_hub_file
from glance.core.phase import Phase
from glance.core.tables import name_some
from glance.models.lora.file import read_header
from glance.models.lora.keys import ADAPTER_CONFIG, TRAINED_CONFIG, read_file_strength, sort_keys
from glance.runs.folder import LORA_FILE, RunFolder
from glance.runs.manifest import load_manifest, require_finished

_SUFFIX: Final = ".safetensors"
_PEFT_FILE: Final = "adapter_model.safetensors"
_USUAL: Final = (LORA_FILE, _PEFT_FILE)
_PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt")
_HINT: Final = "give a .safetensors file, its folder, or owner/repo:file.safetensors of the Hub"
_FILE: Final = "give a .safetensors file, a folder that holds one LoRA, or a run"
_LISTED: Final = 5


def locate_lora(name: str, phase: Phase | None = None) -> Path:
    """Return the file: `name` itself, that in the folder, or owner/repo:file of the Hub, fetched.

    Of a run it is the LoRA of `phase`. Raises LoraError when there is none or more than one,
    RunError for a run that has not finished it, SetupError when the Hub does not give it.
    """
    if not name.strip():
        raise LoraError("the name of a LoRA is empty", hint="is a variable not set?")
    if "://" in name:
        named = name_address(name)
        what = "download the file, and give that" if named is None else f"say it as {named}"
        raise LoraError(f"{name} is an address, no file", hint=what)
    found = find_local(name, phase)
    if found is not None:
        return found
    if ":" not in name:
        _require_no_typo(name)
    fetched = find_hub_file(name, default=LORA_FILE, or_else=_PEFT_FILE)
    if fetched is None:
        raise LoraError(f"LoRA not found: {Path(name).expanduser()}", hint=_HINT)
    with suppress(LoraError):  # what is wrong with the file is said when it is examined
        if read_file_strength(fetched).source is None:
            fetch_beside(name, fetched, (ADAPTER_CONFIG, TRAINED_CONFIG))
    return fetched


def find_local(name: str, phase: Phase | None = None) -> Path | None:
    """Return the file that `name` stands for on this disk; None when nothing of it is here.

    Raises LoraError when it is here and no LoRA can be told from it, RunError as locate_lora does.
    """
    try:
        path = Path(name).expanduser()
        if path.is_dir():
            return _in_folder(path, phase)
        if path.exists():
            return path
        if os.path.lexists(path):
            raise LoraError(
                f"{path} is a link to {path.readlink()}, which is not there", hint=_HINT
            )
        return _in_clone(name)
    except (OSError, ValueError, RuntimeError) as exc:  # too long, a NUL, ~ of an unknown user
        reason = reason_of(exc)
        raise LoraError(f"{name} cannot be read: {reason}", hint=_HINT) from exc


def _in_clone(name: str) -> Path | None:
    """Return the file of owner/repo:file where that repository is a folder here."""
    found = split_hub_file(name)
    if found is None or not Path(found[0]).is_dir():
        return None
    path = Path(found[0]) / (found[1] or LORA_FILE)
    if path.is_file():
        return path
    raise LoraError(
        f"the folder {found[0]} is here, and has no file {found[1]}",
        hint="what is here is not looked for on the Hub: name a file of the folder",
    )


def _require_no_typo(name: str) -> None:
    """Raise LoraError for a name in a folder that is here: it is meant to be here, and is not."""
    folder = Path(name).parts[0]
    if split_hub_file(name) is None or not Path(folder).is_dir():
        return
    here = [str(path) for path in Path(name).parent.glob("*")]
    near = get_close_matches(name, here, n=1)
    hint = f"there is {near[0]}" if near else f"{folder} is a folder here, and has none"
    raise LoraError(f"LoRA not found: {name}", hint=f"{hint}; of the Hub: {name}:{LORA_FILE}")


def _in_folder(folder: Path, phase: Phase | None) -> Path:
    run = RunFolder(folder)
    if run.manifest.is_file():
        if phase is None:
            both = " or ".join(quoted(run.lora(one)) for one in Phase)
            raise LoraError(f"{run.path} is a run, which has two LoRAs", hint=f"give one: {both}")
        require_finished(run, load_manifest(run), (phase,))
        return run.lora(phase)
    for name in _USUAL:
        if (folder / name).exists():
            return folder / name
    files = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() == _SUFFIX and not path.name.startswith(".") and path.is_file()
    )
    if len(files) == 1:
        return files[0]
    loras = [path for path in files if _is_lora(path)]
    if len(loras) > 1 and phase is not None:
        phases = {path: read_header(path).metadata.get("glance.phase") for path in loras}
        loras = [path for path in loras if phases[path] == phase] or loras
    if len(loras) == 1:
        return loras[0]
    raise _refusal(folder, loras)


def _is_lora(path: Path) -> bool:
    with suppress(LoraError):
        return bool(sort_keys(read_header(path).entries).pairs)
    return False


def _refusal(folder: Path, loras: Sequence[Path]) -> LoraError:
    """Return why no one LoRA can be told from a folder, and what to give instead."""
    if len(loras) > 1:
        names = name_some((path.name for path in loras), _LISTED)
        return LoraError(
            f"{folder} holds {len(loras)} LoRAs: {names}",
            hint=f"give one: {quoted(loras[0])}",
        )
    if (folder / "model_index.json").is_file():
        return LoraError(f"{folder} holds a base model, no LoRA", hint=_FILE)
    below = [path for name in _USUAL for path in sorted(folder.glob(f"*/{name}"))]
    if below:
        found = ", ".join(quoted(path.parent) for path in below[:_LISTED])
        return LoraError(f"{folder} holds no LoRA itself", hint=f"there are some below it: {found}")
    pickles = [path.name for path in sorted(folder.iterdir()) if path.suffix in _PICKLES]
    if pickles:
        return LoraError(
            f"{folder} holds no .safetensors file but {pickles[0]}, which may run code when it is "
            "opened, so glance opens none",
            hint="convert it to .safetensors, or get it as that",
        )
    return LoraError(f"{folder} holds no LoRA", hint=_FILE)
