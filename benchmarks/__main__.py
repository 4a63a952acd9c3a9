"""Measure, and keep it: `uv run python -m benchmarks`.

The benchmarks that take minutes run on the GPU, if there is one, else on the CPU. Each result goes
into benchmarks/results/<date>-<kind of machine>.json as soon as it is there, and docs/benchmarks.md
is written anew. The ones that take hours write pages of their own: see --list, --only and --all.
"""

import argparse
import subprocess
import sys
from datetime import date
from pathlib import Path

from benchmarks.catalogue import BENCHMARKS, LONG, describe_all
from benchmarks.machine import describe_machine, installed_versions
from benchmarks.page import PAGE, render, render_result
from benchmarks.records import Record, keep, load_records
from benchmarks.result import Result
from benchmarks.rounds import ROOT, Conditions
from glance.core.device import Device, is_present
from glance.core.files import write_text


def main() -> None:
    """Run what was asked for, one after another."""
    options = parse(sys.argv[1:])
    if options.list:
        sys.stdout.write(describe_all() + "\n")
        return
    try:
        for name in options.only:
            if name in LONG:
                run_long(name, options)
            else:
                run(name, options)
    except KeyboardInterrupt:
        tell("stopped; what was measured before is kept")
        sys.exit(130)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the options; what does not go together ends the program with 2."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = (*BENCHMARKS, *LONG)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    which.add_argument("--all", action="store_true", help="those that take hours, too")
    which.add_argument("--list", action="store_true", help="say what there is, measure nothing")
    parser.add_argument("--rounds", type=_count, help="default: each benchmark's own number")
    parser.add_argument("--device", type=Device, choices=[Device.CPU, Device.CUDA])
    parser.add_argument("--quick", action="store_true", help="a smoke run that keeps nothing")
    parser.add_argument("--work", type=Path, help="where evidence keeps what it has made")
    options = parser.parse_args(arguments)
    options.only = options.only or [*BENCHMARKS, *(LONG if options.all else ())]
    options.device = options.device or (Device.CUDA if is_present(Device.CUDA) else Device.CPU)
    if not is_present(options.device):
        parser.error(f"--device {options.device}: there is none that torch could use here")
    for name in filter(LONG.__contains__, options.only):
        if options.quick:
            parser.error(f"{name} has no quick run")
        if LONG[name].needs_work and options.work is None:
            parser.error(f"{name} needs --work FOLDER, where it goes on from what is there")
    return options


def run(name: str, options: argparse.Namespace) -> None:
    """Measure one benchmark, show its tables, and keep them unless it was a smoke run."""
    benchmark = BENCHMARKS[name]
    conditions = Conditions(
        device=options.device,
        rounds=options.rounds or (1 if options.quick else benchmark.rounds),
        is_quick=options.quick,
        tell=lambda line: tell(f"{name}: {line}"),
    )
    result = benchmark.measure(conditions)
    sys.stdout.write(render_result(result) + "\n\n")
    sys.stdout.flush()
    if options.quick:
        tell(f"{name}: a smoke run, nothing was kept")
    else:
        tell(f"{name}: kept in {save(result, options.device)}")


def save(result: Result, device: Device) -> str:
    """Put the result into the day's record, write the page anew, and return the record's name."""
    record = Record(
        date=date.today().isoformat(),
        machine=describe_machine(device),
        versions=installed_versions(),
        results={result.name: result},
    )
    path = keep(record)
    write_text(PAGE, render(load_records()))
    return path.relative_to(ROOT).as_posix()


def run_long(name: str, options: argparse.Namespace) -> None:
    """Run one that takes hours; it shows its own progress."""
    tell(f"{name}: takes about {LONG[name].takes} on two cores")
    command = LONG[name].command(name, work=options.work, rounds=options.rounds)
    subprocess.run(command, cwd=ROOT, check=True)
    tell(f"{name}: {LONG[name].page} is written")


def tell(line: str) -> None:
    """Show progress."""
    sys.stderr.write(f"{line}\n")


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


if __name__ == "__main__":
    main()
