"""The seed decides what the trainer draws, whatever it did before.

SimpleTuner seeds its generators once, when it starts. What it draws afterwards depends on what it
had to do until then: a picture that is not in the cache yet takes numbers to encode it, a
checkpoint that is loaded others. So the same settings gave another LoRA in a folder where something
had been trained, and a training that was continued another one than one that was not.

Here the generators begin anew before each piece of work, from the seed and from what the work is:
encoding, making the LoRA's first weights, and each step.
"""

import hashlib
import random
import sys


def hold_encoding(vae, seed):
    """Encode every picture from the same numbers; `vae` is SimpleTuner's module of that name."""
    _begin_with(vae, "VAECache", "encode_images", lambda: _begin(seed, "encode"))


def hold_training(trainer, seed):
    """Make the first weights and take each step from numbers of their own.

    `trainer` is SimpleTuner's module of that name. A step fetches its batches from
    `random_dataloader_iterator`: one, or with accumulation several while the global step stays.
    """
    name = "init_trainable_peft_adapter"
    _begin_with(trainer, "Trainer", name, lambda: _begin(seed, "weights"))
    fetch, tracker = (
        getattr(trainer, name, None) for name in ("random_dataloader_iterator", "StateTracker")
    )
    if fetch is None or tracker is None:
        _regret("random_dataloader_iterator")
        return
    last = [None, 0]  # the global step, and how many batches it has had

    def random_dataloader_iterator(*args, **kwargs):
        step = tracker.get_global_step()
        last[:] = [step, last[1] + 1 if step == last[0] else 0]
        _begin(seed, "step", *last)
        return fetch(*args, **kwargs)

    trainer.random_dataloader_iterator = random_dataloader_iterator


def _begin_with(module, kind, name, begin):
    """Let `begin` be called before each call of a method."""
    holder = getattr(module, kind, None)
    method = getattr(holder, name, None)
    if method is None:
        _regret(f"{kind}.{name}")
        return

    def call(*args, **kwargs):
        begin()
        return method(*args, **kwargs)

    setattr(holder, name, call)


def _begin(*what):
    """Begin the generators of Python, numpy and torch, which seeds the accelerators' too."""
    import numpy as np
    import torch

    number = int.from_bytes(hashlib.sha256(repr(what).encode()).digest()[:4], "big")
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


def _regret(name):
    """Say in the log that another SimpleTuner than glance's is there; the training goes on."""
    sys.stderr.write(f"glance: the seed does not decide everything: SimpleTuner has no {name}\n")
