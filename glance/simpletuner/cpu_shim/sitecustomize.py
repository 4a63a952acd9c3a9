"""Lets SimpleTuner 4.10 train without an accelerator: there `Tensor.pin_memory` raises.

Python imports a `sitecustomize` by itself. glance puts this folder on PYTHONPATH only when it
trains on the CPU; where torch finds an accelerator after all, nothing is changed.
"""

import importlib.util
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path


class _TorchFinder(MetaPathFinder):
    """Waits for `import torch`, then steps aside and patches what was imported."""

    def find_spec(self, name, path=None, target=None):
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec("torch")
        if spec is None or spec.loader is None:
            return spec
        run_module = spec.loader.exec_module

        def exec_module(module):
            run_module(module)
            if not module.accelerator.is_available():
                module.Tensor.pin_memory = lambda self, *args, **kwargs: self

        spec.loader.exec_module = exec_module
        return spec


def _run_hidden_sitecustomize():
    """Run the sitecustomize that this one stands in front of."""
    here = Path(__file__).resolve().parent
    for entry in sys.path:
        candidate = Path(entry or ".") / "sitecustomize.py"
        if candidate.is_file() and candidate.resolve().parent != here:
            spec = importlib.util.spec_from_file_location("_hidden_sitecustomize", candidate)
            if spec is not None and spec.loader is not None:
                spec.loader.exec_module(importlib.util.module_from_spec(spec))
            return


sys.meta_path.insert(0, _TorchFinder())
_run_hidden_sitecustomize()
