"""Measure what a card can do, in as much time as there is: `python -m benchmarks.card`.

    python -m benchmarks.card --minutes 8 --output DIR      what comes first, by its worth
    python -m benchmarks.card --minutes 60 --output DIR     goes on from there
    python -m benchmarks.card --minutes 60 --dry-run        what it would do, and what that takes

The parts need torch, diffusers, transformers, peft, and what glance itself needs to sample; those
that need more say so, and are left out where it is missing. No checkpoint is needed: weights are
random, and as large as FLUX.1-dev's. What is to be sent is DIR/card-*.json.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Final

from benchmarks.card.parts import PARTS, REFERENCE, TINY, tiny_parts
from benchmarks.card.runner import Facts, Folder, Part, Session, start_process
from benchmarks.machine import Machine, describe_machine
from glance import __version__
from glance.core.device import Device, cuda_memory, is_present, speed

_PACKAGES: Final = (
    *("torch", "diffusers", "transformers", "peft", "accelerate", "torchao", "bitsandbytes"),
    *("triton", "simpletuner"),
)
_SAMPLING: Final = ("torch", "diffusers", "transformers", "peft", "accelerate")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is left to be run and fits; return the exit code."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    device = Device.CUDA if is_present(Device.CUDA) else Device.CPU
    if device is Device.CPU and not (options.tiny or options.dry_run):
        return _refuse("there is no CUDA device that torch could use here; --tiny runs on the CPU")
    missing = [name for name in _SAMPLING if _version(name) is None]
    if missing:
        return _refuse(f"these are not installed: {', '.join(missing)}")
    parts = tiny_parts(device) if options.tiny else PARTS
    folder = Folder(options.output)
    session = Session(
        parts=parts,
        folder=folder,
        facts=look(device),
        seconds=60 * options.minutes,
        only=options.only,
        again=options.again,
        is_tiny=options.tiny,
        tell=tell,
    )
    strange = _find_strangers(session)
    if strange is not None:
        return _refuse(f"{folder.path} holds figures of {strange}: give another --output")
    tell(_describe(session.facts))
    if options.dry_run:
        sys.stdout.write("\n".join(plan(session)) + "\n")
        return 0
    extent = TINY if options.tiny else "whole"
    command = [sys.executable, "-m", "benchmarks.card.measure"]
    command += [str(folder.path), device.value, extent]
    try:
        session.run(start_process(command, folder, _environment(is_tiny=options.tiny)))
    except KeyboardInterrupt:
        tell("stopped; what has ended is kept")
        return 130
    record = session.write_record()
    if record is None:
        return _refuse(f"nothing has ended; {folder.path / 'logs'} says why")
    sys.stdout.write(f"{record}\n")
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options; what does not go together ends the program with 2."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.card",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [part.name for part in PARTS]
    parser.add_argument("--minutes", type=_minutes, default=60.0, help="default: 60")
    parser.add_argument("--output", type=Path, default=Path("card"), help="default: card")
    parser.add_argument("--only", nargs="+", choices=names, metavar="PART", default=[])
    parser.add_argument(
        "--again", nargs="+", choices=names, metavar="PART", default=[], help="although it ended"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    parser.add_argument("--tiny", action="store_true", help="every part, small; no figures")
    return parser.parse_args(arguments)


def plan(session: Session) -> list[str]:
    """Return a line for each part: what it is, what it is expected to take, whether it is run."""
    lines, coming, left = [], list[Part](), session.left
    for part in session.parts:
        expected = session.expect(part)
        hindrance = session.hindrance(part, left, coming)
        if session.only and part.name not in session.only:
            continue
        if hindrance is None:
            coming.append(part)
            left -= expected
        takes = f"{expected:4.0f} s  {part.card_gb:3.0f} GB of the card, {part.system_gb:3.0f} of "
        takes += f"memory, {part.disk_gb:2.0f} of the disk"
        lines += [f"{part.name:20} {takes}  {hindrance or 'runs'}", f"{'':20} {part.what}"]
    taken = session.left - left
    lines.append(f"{len(coming)} parts, about {taken / 60:.0f} of {session.seconds / 60:g} minutes")
    return lines


def look(device: Device) -> Facts:
    """Return which machine and which versions these are; torch is not asked, if another knows."""
    own, there = _look_at_card(device), speed(device) if device is Device.CUDA else None
    machine = describe_machine(Device.CPU if own else device)
    versions: dict[str, str] = {"glance": __version__, "python": python_version()}
    versions |= {name: found for name in _PACKAGES if (found := _version(name)) is not None}
    if own is not None:
        name, driver = own
        memory = cuda_memory() or 0
        machine = replace(machine, gpu=name, gpu_memory_gb=round(memory / 1e9))
        versions["driver"] = driver
    return Facts(
        date=date.today().isoformat(),
        machine=machine,
        versions=versions,
        pace=1.0 if there is None else REFERENCE / there,
    )


def _look_at_card(device: Device) -> tuple[str, str] | None:
    """Return name and driver, as NVIDIA's own tool tells them; None: it does not."""
    program = shutil.which("nvidia-smi")
    if device is not Device.CUDA or program is None:
        return None
    number = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] or "0"
    done = subprocess.run(
        [
            *(program, "--query-gpu=name,driver_version", "--format=csv,noheader"),
            f"--id={number}",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    name, _, driver = done.stdout.strip().partition(", ")
    return (name, driver) if done.returncode == 0 and driver else None


def _find_strangers(session: Session) -> str | None:
    """Say of which other machine or versions the folder holds figures."""
    facts = session.facts
    for part in session.parts:
        found = session.folder.finding(part.name)
        if found is None or not found.is_final:
            continue
        if found.is_tiny != session.is_tiny:
            return "a tiny run" if found.is_tiny else "a whole one"
        if found.machine != facts.machine:
            return found.machine.gpu or "another machine"
        if found.versions != facts.versions:
            changed = found.versions.items() - facts.versions.items()
            return ", ".join(" ".join(one) for one in sorted(changed)) or "fewer packages"
    return None


def _describe(facts: Facts) -> str:
    machine: Machine = facts.machine
    card = "CPU" if machine.gpu is None else f"{machine.gpu}, {machine.gpu_memory_gb} GB"
    versions = ", ".join(f"{name} {number}" for name, number in facts.versions.items())
    return f"{card}; {versions}"


def _environment(*, is_tiny: bool) -> Mapping[str, str]:
    own = {"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    # threads would wait for one another most of the time
    return {**os.environ, **own, **({"OMP_NUM_THREADS": "1"} if is_tiny else {})}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _minutes(text: str) -> float:
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError("more than 0")
    return number


def tell(line: str) -> None:
    """Show progress."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _refuse(why: str) -> int:
    tell(f"benchmarks.card: {why}")
    return 2


if __name__ == "__main__":
    sys.exit(main())
