"""What a failed trainer's output means: the telling lines, and what to do about it. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_TAIL_LINES: Final = 12


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why a trainer failed, as far as its output tells."""

    cause: str | None
    remedy: str | None
    tail: tuple[str, ...]


_OUT_OF_SYSTEM_MEMORY: Final = (
    "it was killed, most likely because the system ran out of memory",
    "close other programs, or use a smaller --resolution",
)

# First match wins: the more telling failures stand above those that follow from them.
_KNOWN: Final[tuple[tuple[str, str, str], ...]] = (
    (
        r"GatedRepoError|gated repo|Access to model .* is restricted|401 Client Error",
        "the base model is gated, and there is no token with a right to it",
        "accept the licence on the model's page, then `hf auth login` or set HF_TOKEN",
    ),
    (
        r"CUDA out of memory|OutOfMemoryError|HIP out of memory",
        "the accelerator ran out of memory",
        "close other programs that use it; then a smaller --resolution, or "
        "--set base_model_precision=int4-quanto",
    ),
    (
        r"No space left on device|Errno 28|Disk quota exceeded",
        "the disk is full",
        "free some space and run the same command again: it continues",
    ),
    (
        r"DefaultCPUAllocator: .*allocate memory|MemoryError|Cannot allocate memory",
        "the system ran out of memory",
        "close other programs; quantising FLUX takes about 50 GB, with a card of 32 GB or more "
        "use --set quantize_via=accelerator",
    ),
    (
        r"RepositoryNotFoundError|404 Client Error|is not a local folder and is not a valid model"
        r"|does not appear to have a file named|no file named .* found in directory"
        r"|LocalEntryNotFoundError|OfflineModeIsEnabled|outgoing traffic has been disabled",
        "the base model was not found",
        "check --model: a Hub id such as black-forest-labs/FLUX.1-dev, or a folder in diffusers "
        "layout; and whether HF_HUB_OFFLINE is set",
    ),
    (
        r"died with <Signals\.SIGKILL",  # accelerate's words
        *_OUT_OF_SYSTEM_MEMORY,
    ),
    (
        r"unrecognized arguments|error: argument --|invalid choice",
        "SimpleTuner did not accept an option",
        "check the --set options",
    ),
)
_FITTING: Final = (
    "install the SimpleTuner that glance names in its dependencies; if it is that one, the "
    "recordings are damaged: make them anew in another --run"
)
_KILLED: Final = 128 + 9
_NOISE: Final = re.compile(
    r"TorchDynamo|FutureWarning|UserWarning|warnings\.warn|\|\s*\d+/\d+|register_constant"
    r"|CalledProcessError|accelerate/commands|Function, Runtimes|^\W*$"
)


def diagnose(lines: Sequence[str], returncode: int) -> Diagnosis:
    """Return the cause and remedy that the output speaks of, and its last telling lines.

    `lines` is the end of the output; `returncode` of the trainer, as a shell counts it.
    """
    telling = [line for line in lines if not _NOISE.search(line)]
    tail = tuple(telling[-_TAIL_LINES:])
    text = "\n".join(lines)
    if refused := re.search(r"^glance cannot teach SimpleTuner: .+", text, re.MULTILINE):
        return Diagnosis(refused[0], _FITTING, tail)
    for pattern, cause, remedy in _KNOWN:
        if re.search(pattern, text):
            return Diagnosis(cause, remedy, tail)
    if returncode == _KILLED:
        return Diagnosis(*_OUT_OF_SYSTEM_MEMORY, tail)
    return Diagnosis(None, None, tail)
