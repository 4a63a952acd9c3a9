"""Models of every family with random weights, a few hundred kilobytes each, made in seconds.

Real SimpleTuner and real diffusers run on them where no checkpoint and no accelerator is. Their
pictures are noise; the model in `glance/assets` paints. One module a family, with `make()`; what
families share is in `parts` and `vocabularies`.
"""

from importlib import import_module
from pathlib import Path


def build_tiny(family: str, folder: Path, *, seed: int = 0) -> Path:
    """Write a random pipeline of `family` in diffusers layout to `folder` and return it.

    The same seed gives the same weights; the global random state is left as it was.
    """
    import torch

    make = import_module(f"tiny_models.{family}").make
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        make().save_pretrained(folder)
    return folder
