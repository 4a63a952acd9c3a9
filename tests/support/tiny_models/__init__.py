"""Models of every family with random weights, a few hundred kilobytes each, made in seconds.

Real SimpleTuner and real diffusers run on them where no checkpoint and no accelerator is. Their
pictures are noise; the model in `glance/assets` paints. One module a family, with `make()`; what
families share is in `parts` and `vocabularies`.
"""

import os
import shutil
from importlib import import_module
from pathlib import Path

from glance.models.families import find_family


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


def lend_parts(family: str, model: Path) -> None:
    """Put what the family borrows of another model into the cache of the tests' Hub.

    The parts are the tiny model's own; its module says where they lie in the other one.
    """
    borrowed = find_family(family).borrowed
    if borrowed is None:
        return
    name = f"models--{borrowed.model.replace('/', '--')}"
    cache = Path(os.environ["HF_HOME"]) / "hub" / name
    for part, place in import_module(f"tiny_models.{family}").LENT.items():
        target = cache / "snapshots/1" / place
        if (model / part).is_dir():
            shutil.copytree(model / part, target, dirs_exist_ok=True)
        else:
            shutil.copy(model / part, target)
    (cache / "refs").mkdir(exist_ok=True)
    (cache / "refs/main").write_text("1")
