"""The island of torch and diffusers: the only package that imports them at the top of its modules.

Import these inside the function that needs them, so that commands which load no model start at
once; after `hush`, and within `importing`.
"""

import gc
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_ALLOCATOR: Final = {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"}
_LOADS: Final = "diffusers.pipelines.pipeline_utils"
"""What has to be imported before there is a pipeline."""


def hush() -> None:
    """Silence the libraries' notes, warnings and progress bars; errors still come through.

    Call it before they are imported: some of the notes are about their own import, and torch reads
    then that what it pins of system memory is to be no larger than what it holds.
    """
    if not _ALLOCATOR & os.environ.keys():
        # group offload pins each weight by itself; torch would round each up to a power of two,
        # 24 GB of FLUX.1 to 37 (ATen/core/CachingHostAllocator.h)
        os.environ["PYTORCH_ALLOC_CONF"] = "pinned_max_round_threshold_mb:1"
    warnings.filterwarnings("ignore", module=r"(torch|transformers|diffusers|peft|typing_ext).*")
    libraries = ("torch", "torch.utils._pytree", "torchao", "diffusers", "transformers", "peft")
    for name in libraries:
        logging.getLogger(name).setLevel(logging.ERROR)
    with importing():
        from diffusers.utils import logging as diffusers_logging
        from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


@contextmanager
def importing() -> Iterator[None]:
    """Let no garbage collection interrupt the block, which imports; blocks may nest.

    What samples is a million objects when imported, hardly any of it garbage, and to go through
    them again and again takes a sixth of the time. What the block imported stays out of later
    collections too: otherwise the next one would take back what was saved. But not once there may
    be a pipeline, for that would never be freed: hooks that offload its parts make cycles.
    """
    if not gc.isenabled():
        yield
        return
    known, may_freeze = len(sys.modules), _LOADS not in sys.modules
    gc.disable()
    try:
        yield
    finally:
        if may_freeze and len(sys.modules) > known:
            gc.freeze()
        gc.enable()
