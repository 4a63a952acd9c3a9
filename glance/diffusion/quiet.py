"""Keeps torch, transformers and diffusers from talking over our own output."""

import logging
import warnings


def hush() -> None:
    """Silence the libraries' notes, warnings and progress bars; errors still come through.

    Call it before they are imported: some of the notes are about their own import.
    """
    warnings.filterwarnings("ignore", module=r"(torch|transformers|diffusers|peft|typing_ext).*")
    for name in (
        "torch",
        "torch.utils._pytree",
        "torchao",
        "diffusers",
        "transformers",
        "peft",
    ):
        logging.getLogger(name).setLevel(logging.ERROR)
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
