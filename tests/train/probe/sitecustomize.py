"""Runs inside the trainer's own process: notes every noise level that reaches the transformer.

One line a forward pass in ./probe.txt (the trainer works in the run folder): the timestep as the
model is given it, times 1000, and the number of caption tokens that are not padding, if known.
"""

import importlib.util
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path

_MODULE = "simpletuner.helpers.models.flux.transformer"


class _Finder(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run_module = spec.loader.exec_module

        def exec_module(module):
            run_module(module)
            _watch(module.FluxTransformer2DModel)

        spec.loader.exec_module = exec_module
        return spec


def _watch(transformer):
    forward = transformer.forward

    def noting_forward(self, *args, **kwargs):
        with Path("probe.txt").open("a", encoding="utf-8") as notes:
            for timestep in kwargs["timestep"].flatten().tolist():
                notes.write(f"{timestep * 1000:.4f}\n")
        return forward(self, *args, **kwargs)

    transformer.forward = noting_forward


sys.meta_path.insert(0, _Finder())
