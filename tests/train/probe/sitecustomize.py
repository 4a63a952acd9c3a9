"""Runs inside the trainer's own process: notes what each training step is made of.

One file a step, ./probe/<environment>-<number>.safetensors (the trainer works in the run folder):
what the transformer is given, as `given.<argument>`, what the loss is made of, as `loss.<name>`,
and the pictures' paths as metadata; there too whether torch's compiler was imported.
"""

import importlib.util
import inspect
import json
import os
import re
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path

_TRANSFORMER = re.compile(r"simpletuner\.helpers\.models\.\w+\.transformer")
_FOUNDATION = "simpletuner.helpers.models.common"
_NAMES = {"x": "hidden_states", "t": "timestep", "timesteps": "timestep"}  # Z-Image's, HiDream's
_given = {}
_number = 0


class _Finder(MetaPathFinder):
    busy = False

    def find_spec(self, name, path=None, target=None):
        if self.busy or not (name == _FOUNDATION or _TRANSFORMER.fullmatch(name)):
            return None
        self.busy = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.busy = False
        run_module = spec.loader.exec_module

        def exec_module(module):
            run_module(module)
            if name == _FOUNDATION:
                _watch_loss(module.ModelFoundation)
                return
            for found in list(vars(module).values()):
                is_its_own = isinstance(found, type) and found.__module__ == name
                if is_its_own and found.__name__.endswith("Transformer2DModel"):
                    _watch_forward(found)

        spec.loader.exec_module = exec_module
        return spec


def _watch_forward(transformer):
    forward = transformer.forward
    signature = inspect.signature(forward)

    def noting_forward(self, *args, **kwargs):
        import torch

        arguments = signature.bind(self, *args, **kwargs).arguments
        for name, value in arguments.items():
            name = _NAMES.get(name, name)
            if name in ("hidden_states", "timestep", "guidance") and value is not None:
                _given[name] = torch.stack(value) if isinstance(value, list) else value
        return forward(self, *args, **kwargs)

    transformer.forward = noting_forward


def _watch_loss(foundation):
    loss = foundation.loss

    def noting_loss(self, prepared_batch, model_output, *args, **kwargs):
        noted = {f"given.{name}": value for name, value in _given.items()}
        noted["loss.noisy_latents"] = prepared_batch["noisy_latents"]
        noted["loss.sigmas"] = prepared_batch["sigmas"].flatten()
        noted["loss.target"] = self.get_prediction_target(prepared_batch)
        noted["loss.prediction"] = model_output["model_prediction"]
        _write(noted, prepared_batch["filepaths"])
        return loss(self, prepared_batch, model_output, *args, **kwargs)

    foundation.loss = noting_loss


def _write(noted, pictures):
    global _number
    from safetensors.torch import save_file

    _number += 1
    Path("probe").mkdir(exist_ok=True)
    tensors = {name: value.detach().float().contiguous().clone() for name, value in noted.items()}
    path = Path("probe") / f"{os.environ['ENV']}-{_number:04}.safetensors"
    metadata = {
        "pictures": json.dumps(list(map(str, pictures))),
        "compiler": json.dumps("torch._inductor.cudagraph_trees" in sys.modules),
    }
    save_file(tensors, path, metadata=metadata)
    _given.clear()


sys.meta_path.insert(0, _Finder())
