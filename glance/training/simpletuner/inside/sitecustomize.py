"""Runs at the start of every Python process of the trainer, and changes eight things in it.

Python imports a `sitecustomize` by itself. glance puts this folder on PYTHONPATH of the trainer
alone. It starts in little more than half of the time then, see _start_sooner; what else is wanted
is said by environment variables:

- GLANCE_MODEL: the base model is read from there, see _place_model.
- HF_HUB_OFFLINE: what is in the Hub's cache does, see _take_what_is_there.
- GLANCE_WITHOUT_PINNING: SimpleTuner 4.10 cannot train without an accelerator, because there
  `Tensor.pin_memory` raises. Where torch finds an accelerator after all, nothing is changed.
- GLANCE_SEED: that seed decides what is drawn (glance_seed.py). And what SimpleTuner 4.10 learns of
  the images reaches it: see _keep_metadata.
- GLANCE_TARGETS: the LoRA learns recorded velocities (glance_targets.py).
- GLANCE_GATE: it was started before its turn, and waits for it (glance_gate.py).
"""

import gc
import importlib.util
import os
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path


class _Finder(MetaPathFinder):
    """Waits for the import of one module, then steps aside and changes what was imported.

    `prepare` is called before the module is.
    """

    def __init__(self, name, change=lambda module: None, prepare=lambda: None):
        self.name, self.change, self.prepare = name, change, prepare

    def find_spec(self, name, path=None, target=None):
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        self.prepare()
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        run_module = spec.loader.exec_module

        def exec_module(module):
            run_module(module)
            self.change(module)

        spec.loader.exec_module = exec_module
        return spec


def _start_sooner(trainer):
    """Leave out what takes nearly half of the time in which SimpleTuner 4.10 starts.

    It imports 7,500 modules, a million objects of which hardly any is garbage: collections while it
    does are a sixth of that time, so there are none, and later ones skip these objects. The first
    step then imports torch's inductor, only to tell it that a step begins, though `dynamo_backend`
    is "no": that call is left out unless something else has imported the compiler.
    """
    gc.freeze()
    gc.enable()
    tell = getattr(trainer, "mark_cudagraph_step_begin", None)

    def mark_cudagraph_step_begin(config):
        if "torch._inductor.cudagraph_trees" in sys.modules:
            tell(config)

    if tell is not None:
        trainer.mark_cudagraph_step_begin = mark_cudagraph_step_begin


def _place_model(json_file):
    """Let a base model of the Hub be read from its folder in the cache.

    By its name diffusers 0.42 asks the Hub for the list of a checkpoint's shards
    (utils/hub_utils.py), even offline, and fails.
    """
    load, key = json_file.load_json_config, "--pretrained_model_name_or_path="

    def load_json_config():
        place = key + os.environ["GLANCE_MODEL"]
        return [place if word.startswith(key) else word for word in load()]

    json_file.load_json_config = load_json_config


def _take_what_is_there(common):
    """Let text encoders of another model be read from the cache as far as they are there.

    SimpleTuner asks huggingface_hub for a whole folder; offline that refuses one of which a file is
    missing that nobody reads, such as the same weights in another format.
    """
    fetch = common.snapshot_download

    def snapshot_download(*args, **options):
        try:
            return fetch(*args, **options)
        except OSError:  # IncompleteSnapshotError
            return fetch(*args, **{**options, "allow_patterns": ["model_index.json"]})

    common.snapshot_download = snapshot_download


def _do_without_pinning(torch):
    if not torch.accelerator.is_available():
        torch.Tensor.pin_memory = lambda self, *args, **kwargs: self


def _hold_encoding(vae):
    from glance_seed import hold_encoding

    hold_encoding(vae, int(os.environ["GLANCE_SEED"]))


def _hold_training(trainer):
    from glance_seed import hold_training

    hold_training(trainer, int(os.environ["GLANCE_SEED"]))


def _keep_metadata(base):
    """Let SimpleTuner's threads hand over what they learn of the images without a pipe in between.

    It takes multiprocessing's queues, of which another thread fills the pipe: what it has not yet
    filled in when the last worker ends is lost, on a busy machine nearly all of it.
    """
    import queue

    between_processes = base.Queue

    def make_queue():
        is_of_processes = base.StateTracker.get_args().enable_multiprocessing
        return between_processes() if is_of_processes else queue.Queue()

    base.Queue = make_queue


def _teach(common):
    from glance_targets import teach

    # not of the working folder: that may be another until its turn has come
    teach(common.ModelFoundation, Path(os.environ["PWD"], os.environ["GLANCE_TARGETS"]))


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


sys.meta_path.insert(0, _Finder("simpletuner", prepare=gc.disable))
sys.meta_path.insert(0, _Finder("simpletuner.helpers.training.trainer", _start_sooner))
if os.environ.get("GLANCE_MODEL"):
    sys.meta_path.insert(0, _Finder("simpletuner.helpers.configuration.json_file", _place_model))
if os.environ.get("HF_HUB_OFFLINE"):
    sys.meta_path.insert(0, _Finder("simpletuner.helpers.models.common", _take_what_is_there))
if os.environ.get("GLANCE_WITHOUT_PINNING"):
    sys.meta_path.insert(0, _Finder("torch", _do_without_pinning))
if os.environ.get("GLANCE_SEED"):
    sys.meta_path.insert(0, _Finder("simpletuner.helpers.caching.vae", _hold_encoding))
    sys.meta_path.insert(0, _Finder("simpletuner.helpers.training.trainer", _hold_training))
    sys.meta_path.insert(0, _Finder("simpletuner.helpers.metadata.backends.base", _keep_metadata))
if os.environ.get("GLANCE_TARGETS"):
    sys.meta_path.insert(0, _Finder("simpletuner.helpers.models.common", _teach))
# of this process alone, not of those that it starts
if gate := os.environ.pop("GLANCE_GATE", None):
    from glance_gate import Gate

    gate = Gate(int(gate))
    sys.meta_path.insert(0, _Finder("torch", gate.hold_device))
    sys.meta_path.insert(0, _Finder("simpletuner.helpers.training.trainer", gate.hold_training))
_run_hidden_sitecustomize()
