"""A checkout of ComfyUI in this process, on the CPU: its nodes, and empty files to choose from."""

import asyncio
import importlib
import logging
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from glance.models.families.family import ComfyFile

EXTRAS = ("nodes_custom_sampler", "nodes_sd3", "nodes_flux", "nodes_qwen", "nodes_hidream")


class Checkout:
    """ComfyUI's modules, imported from the folder of a checkout."""

    def __init__(self, folder: Path) -> None:
        """Import it; it reads the command line, so that is replaced before."""
        if not (folder / "comfy/samplers.py").is_file():
            raise SystemExit(f"{folder} is no checkout of ComfyUI: it has no comfy/samplers.py")
        sys.argv = [sys.argv[0], "--cpu"]
        sys.path.insert(0, str(folder))
        importlib.import_module("comfy.options").enable_args_parsing()
        importlib.import_module("comfy.cli_args")
        logging.getLogger().setLevel(logging.WARNING)
        self.nodes = importlib.import_module("nodes")
        self.execution = importlib.import_module("execution")
        self.version: str = importlib.import_module("comfyui_version").__version__
        for name in EXTRAS:
            path = str(folder / f"comfy_extras/{name}.py")
            asyncio.run(self.nodes.load_custom_node(path, module_parent="comfy_extras"))
        self.lacks_manual_sigmas = "ManualSigmas" not in self.classes
        if self.lacks_manual_sigmas:
            self.classes["ManualSigmas"] = ManualSigmas

    @property
    def classes(self) -> dict[str, Any]:
        """Its nodes by name."""
        classes: dict[str, Any] = self.nodes.NODE_CLASS_MAPPINGS
        return classes

    def module(self, name: str) -> ModuleType:
        """Return one of its modules."""
        return importlib.import_module(name)

    def offer(self, files: Iterable[ComfyFile], folder: Path) -> None:
        """Let its loaders offer empty files of these names, and a reference.png."""
        paths = self.module("folder_paths")
        paths.set_input_directory(str(folder))
        (folder / "reference.png").touch()
        for file in files:
            place = folder / file.folder
            place.mkdir(parents=True, exist_ok=True)
            (place / file.name).touch()
            if str(place) not in paths.get_folder_paths(file.folder):
                paths.add_model_folder_path(file.folder, str(place))
        paths.filename_list_cache.clear()

    def object_info(self, name: str) -> dict[str, Any]:
        """Return a node's inputs and outputs, as GET /object_info gives them."""
        kind = self.classes[name]
        inputs = kind.INPUT_TYPES()
        return {
            "input": {
                part: {port: _type_of(spec) for port, spec in inputs.get(part, {}).items()}
                for part in ("required", "optional")
            },
            "output": [str(one) for one in kind.RETURN_TYPES],
            "output_name": [
                str(getattr(one, "value", one))
                for one in getattr(kind, "RETURN_NAMES", None) or kind.RETURN_TYPES
            ],
        }

    def widgets(self, name: str) -> dict[str, dict[str, Any]]:
        """Return what is said of the inputs that a value is typed into: step, default, choices."""
        inputs = self.classes[name].INPUT_TYPES()
        said: dict[str, dict[str, Any]] = {}
        for part in ("required", "optional"):
            for port, (kind, *options) in inputs.get(part, {}).items():
                if isinstance(kind, list):
                    said[port] = {"options": kind}
                elif kind in ("COMBO", "STRING", "INT", "FLOAT"):
                    said[port] = {}
                else:
                    continue
                said[port] |= {key: it for key, it in dict(*options).items() if key != "tooltip"}
        return said

    def run(self, name: str, **inputs: Any) -> tuple[Any, ...]:
        """Run one node and return its outputs."""
        kind = self.classes[name]
        made = getattr(kind(), kind.FUNCTION)(**inputs)
        return tuple(getattr(made, "args", made))

    def refusal(self, prompt: dict[str, Any]) -> str | None:
        """Return why ComfyUI would refuse a workflow; None: it takes it."""
        checked = asyncio.run(self.execution.validate_prompt("proof", prompt, None))
        if checked[0]:
            return None
        details = [
            f"{error['message']}: {error['details']}"
            for node in checked[3].values()
            for error in node["errors"]
        ]
        return "; ".join(details) or str(checked[1])


def _type_of(spec: Any) -> str:
    """Return an input's type; a list of choices is what ComfyUI calls a combo."""
    return "COMBO" if isinstance(spec[0], list) else str(spec[0])


class ManualSigmas:
    """What ComfyUI's node of this name does since December 2025, for a checkout from before."""

    FUNCTION = "execute"
    CATEGORY = "sampling"
    RETURN_TYPES = ("SIGMAS",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802  # ComfyUI's name
        """Return its one input."""
        return {"required": {"sigmas": ("STRING", {"default": "1, 0.5", "multiline": False})}}

    def execute(self, sigmas: str) -> tuple[Any]:
        """Read the numbers out of the text."""
        import torch  # here, so that a test can look at this class without it

        return (torch.tensor([float(x) for x in re.findall(r"\d*\.?\d+", sigmas)]),)
