"""What the end of a failed trainer's output is taken for."""

import pytest

from glance.training.simpletuner.progress import Diagnosis, diagnose

TRACEBACK = (
    "Traceback (most recent call last):",
    '  File "/venv/bin/accelerate", line 10, in <module>',
)
GATED = "the base model is gated, and there is no token with a right to it"
NOT_FOUND = "the base model was not found"
NO_VRAM = "the accelerator ran out of memory"
NO_RAM = "the system ran out of memory"
KILLED = "it was killed, most likely because the system ran out of memory"


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("huggingface_hub.errors.GatedRepoError: 403 Client Error. (Request ID: Root=1)", GATED),
        ("401 Client Error. Access to model black-forest-labs/FLUX.1-dev is restricted.", GATED),
        ("OSError: You are trying to access a gated repo.", GATED),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 72.00 MiB.", NO_VRAM),
        ("torch.cuda.OutOfMemoryError: HIP out of memory.", NO_VRAM),
        ("OSError: [Errno 28] No space left on device: 'output/x'", "the disk is full"),
        ("OSError: [Errno 122] Disk quota exceeded", "the disk is full"),
        ("RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried", NO_RAM),
        ("MemoryError", NO_RAM),
        ("OSError: [Errno 12] Cannot allocate memory", NO_RAM),
        ("huggingface_hub.errors.RepositoryNotFoundError: 404 Client Error.", NOT_FOUND),
        ("OSError: me/flux is not a local folder and is not a valid model identifier", NOT_FOUND),
        ("OSError: Error no file named model_index.json found in directory ./x.", NOT_FOUND),
        ("OSError: me/x does not appear to have a file named config.json.", NOT_FOUND),
        ("LocalEntryNotFoundError: outgoing traffic has been disabled.", NOT_FOUND),
        (
            "main.py: error: argument --lr_scheduler: invalid choice: 'warm'",
            "SimpleTuner did not accept an option",
        ),
    ],
)
def test_telling_line_names_the_cause_and_a_remedy(line: str, cause: str) -> None:
    found = diagnose([*TRACEBACK, line], 1)
    assert (found.cause, found.tail) == (cause, (*TRACEBACK, line))
    assert found.remedy


def test_cause_is_found_before_what_follows_from_it() -> None:
    lines = ["torch.OutOfMemoryError: CUDA out of memory.", "OSError: [Errno 28] No space left"]
    assert diagnose(lines, 1).cause == NO_VRAM
    assert diagnose(lines[::-1], 1).cause == NO_VRAM


def test_killed_trainer_most_likely_ran_out_of_memory() -> None:
    found = diagnose(["loading weights"], 137)
    assert (found.cause, found.tail) == (KILLED, ("loading weights",))
    assert found.remedy == "close other programs, or use a smaller --resolution"


def test_output_tells_more_than_the_signal() -> None:
    assert diagnose(["RuntimeError: CUDA out of memory."], 137).cause == NO_VRAM


@pytest.mark.parametrize("returncode", [1, 2, 139, 143])
def test_unknown_failure_claims_nothing(returncode: int) -> None:
    lines = ("RuntimeError: the flux capacitor is missing",)
    assert diagnose(lines, returncode) == Diagnosis(None, None, lines)


def test_silent_failure_has_an_empty_tail() -> None:
    assert diagnose([], 1) == Diagnosis(None, None, ())


@pytest.mark.parametrize(
    "noise",
    [
        "",
        "  ----------  ",
        "Epoch 1/1, Steps:  20%|██        | 12/60 [00:10<00:40,  1.2it/s]",
        "/venv/lib/torch/x.py:10: FutureWarning: `torch.y` is deprecated",
        "  warnings.warn(",
        "W1123 torch/fx/_pytree.py] register_constant is deprecated",
        "Function, Runtimes (s)",
        "TorchDynamo compilation metrics:",
        "subprocess.CalledProcessError: Command '[python, train.py]' returned exit status 1.",
        '  File "/venv/lib/accelerate/commands/launch.py", line 1, in main',
    ],
)
def test_noise_is_kept_from_the_tail(noise: str) -> None:
    assert diagnose([noise, "ValueError: oops", noise], 1).tail == ("ValueError: oops",)


def test_tail_is_the_last_telling_lines() -> None:
    lines = [f"line {number}" for number in range(100)]
    assert diagnose(lines, 1).tail == tuple(lines[-12:])


def test_a_kill_that_accelerate_reports_is_known_too() -> None:
    line = "subprocess.CalledProcessError: Command '[...]' died with <Signals.SIGKILL: 9>."

    found = diagnose((line,), 1)

    assert found.cause == "it was killed, most likely because the system ran out of memory"
