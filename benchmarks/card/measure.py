"""A part's own process: `python -m benchmarks.card.measure FOLDER DEVICE EXTENT PART ...`.

What it has found is written after every result, so that what a part was killed at is no riddle.
"""

import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Final

import psutil

from benchmarks.card.parts import TINY, find_part
from benchmarks.card.runner import Finding, Folder, Outcome, Part
from benchmarks.result import Result
from glance.core.device import Device

_LONGEST: Final = 200


def main() -> None:
    """Measure the parts that are named, one after another."""
    path, device, extent, *names = sys.argv[1:]
    folder = Folder(Path(path))
    folder.work.mkdir(parents=True, exist_ok=True)
    began = psutil.Process().create_time()
    for name in names:
        measure(find_part(name), folder, Device(device), is_tiny=extent == TINY, began=began)
        began = time.time()


def measure(part: Part, folder: Folder, device: Device, *, is_tiny: bool, began: float) -> Finding:
    """Measure one part and write down what was found, and how it ended; it raises nothing.

    `began`: in seconds since 1970. Whoever runs parts has written down that it has begun.
    """
    found = folder.finding(part.name)
    assert found is not None
    results: tuple[Result, ...] = ()
    try:
        from glance.sampling.pipeline import hush

        hush()
        for result in _run(part, folder, device, is_tiny=is_tiny):
            # one that has grown takes the place of what it was
            results = (*(one for one in results if one.name != result.name), result)
            found = replace(found, results=results, seconds=round(time.time() - began, 1))
            folder.keep(found)
        found = replace(found, outcome=Outcome.ENDED)
    except Exception as exc:  # noqa: BLE001 - the next part is another matter
        traceback.print_exc()
        words = next(iter(str(exc).strip().splitlines()), "")[:_LONGEST]
        found = replace(found, outcome=Outcome.FAILED, reason=f"{type(exc).__name__}: {words}")
    found = replace(found, seconds=round(time.time() - began, 1))
    folder.keep(found)
    return found


def _run(part: Part, folder: Folder, device: Device, *, is_tiny: bool) -> Iterator[Result]:
    from benchmarks.card.models import Situation

    module, _, function = part.call.partition(".")
    call: Callable[..., Iterator[Result]] = getattr(
        import_module(f"benchmarks.card.{module}"), function
    )
    here = Situation(device=device, is_tiny=is_tiny, work=folder.work, tell=_tell)
    return call(here, *part.arguments)


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
