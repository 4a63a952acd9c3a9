"""Trouble at random moments of a training, from its first import to its last write; run it again.

`uv run python -m benchmarks.reliability [TRIALS] [--series NAME ...]` writes docs/reliability.md;
about a minute and a half a trial on two cores. With `--result FILE` a single series is kept there,
trial by trial, and `--render FILE ...` makes the page of such files.

Each trial trains both phases of a small model with real SimpleTuner. At a moment drawn from the
whole length of an undisturbed run something goes wrong:

- killed: one process of the tree is killed with SIGKILL: glance itself, its supervisor,
  `simpletuner`, accelerate, or the trainer;
- at-once: the same with `--launcher direct`, and both phases at once;
- disk, with `--launcher direct` too: the disk is full. The folder lies on a small tmpfs in a mount
  namespace of its own, for which util-linux's `unshare` needs no root, and something else takes
  what is left of it.

Then nothing of the tree may be left, the same command must end well (with some room again), and the
run must hold the files of the undisturbed one, with LoRAs that pass the same verification and are
the same to the bit.
"""

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import psutil

from glance.core.phase import Phase
from glance.models.lora.examine import verify_lora
from glance.models.lora.file import read_lora
from glance.runs.folder import RunFolder
from glance.runs.lora import is_final
from glance.runs.manifest import load_manifest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reliability.md"
STEPS, INTERVAL = 30, 3
SEED = 20261124
COMMAND = (
    *(sys.executable, "-m", "glance", "train", "--image", "sunset.png", "--run", "run", "--quiet"),
    *("--model", str(ROOT / "glance/assets/small-flux"), "--device", "cpu", "--resolution", "64"),
    *("--steps", str(STEPS), "--rank", "4", "--events", "events.jsonl"),
)
FURTHER = {
    "killed": (),
    "at-once": ("--launcher", "direct", "--gpu-ids", "0,1"),
    "disk": ("--launcher", "direct"),
}
VICTIMS = {
    "glance": ("glance train",),
    "supervisor": ("supervisor.py",),
    "simpletuner": ("simpletuner train",),
    "accelerate": ("accelerate launch",),
    "trainer": ("simpletuner/train.py", "simpletuner.train"),
}
DISK = "64m"
SPARED = 300_000  # bytes of the full disk that may be left: writes fail in their middle, too


@dataclass(frozen=True)
class Trial:
    """What happened in one."""

    moment: float
    victim: str
    doing: str
    exit_code: int
    lost: int
    faults: tuple[str, ...]


@dataclass(frozen=True)
class Series:
    """Trials of one kind."""

    title: str
    trouble: str
    """What went wrong in each."""
    trials: list[Trial]
    seconds: float
    """What an undisturbed training takes."""


def main() -> None:
    """Run the trials and write the page, or a file for it."""
    options = parse()
    if options.render:
        PAGE.write_text(render([load(Path(one)) for one in options.render]), encoding="utf-8")
        return
    with tempfile.TemporaryDirectory() as results:
        made = []
        for name in options.series or list(TITLES):
            made.append(Path(options.result or f"{results}/{name}.json"))
            if name == "disk" and not options.within:
                again = ("disk", "--within", "--result", str(made[-1]))
                within = (sys.executable, "-m", "benchmarks.reliability", str(options.trials))
                command = ("unshare", "-rm", *within, "--series", *again)
                subprocess.run(command, cwd=ROOT, check=True)
            else:
                run_in_folder(name, options.trials, made[-1])
        if not options.result:
            PAGE.write_text(render(map(load, made)), encoding="utf-8")


def run_in_folder(name: str, trials: int, result: Path) -> None:
    """Run a series in a temporary folder; that of the disk on a small tmpfs."""
    with tempfile.TemporaryDirectory() as folder:
        if name == "disk":
            mount = ("mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", folder)
            subprocess.run(mount, check=True)
        run_series(name, trials, Path(folder), result)
        if name == "disk":
            subprocess.run(["umount", "-l", folder], check=True)


def load(result: Path) -> Series:
    """Return the series that a file holds."""
    found = json.loads(result.read_text(encoding="utf-8"))
    trials = [Trial(**{**one, "faults": tuple(one["faults"])}) for one in found["trials"]]
    return Series(**{**found, "trials": trials})


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reliability")
    parser.add_argument("trials", type=int, nargs="?", default=20, help="of each kind")
    parser.add_argument("--series", nargs="+", choices=TITLES, help="default: all")
    parser.add_argument("--result", help="where to write a single series")
    parser.add_argument("--render", nargs="+", help="make the page of such files, run nothing")
    parser.add_argument("--within", action="store_true", help=argparse.SUPPRESS)  # the namespace
    options = parser.parse_args()
    if options.result and len(options.series or TITLES) > 1:
        parser.error("--result takes one --series")
    return options


def run_series(name: str, trials: int, folder: Path, result: Path) -> None:
    """Train once undisturbed, then once for each trial; write what there is after each."""
    rng = random.Random(f"{SEED} {name}")
    command = (*COMMAND, *FURTHER[name])
    whole = make_folder(folder / "undisturbed")
    began = time.monotonic()
    subprocess.run(command, cwd=whole, check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - began
    done = []
    for number in range(trials):
        place = make_folder(folder / str(number))
        trouble = partial(fill_disk, rng) if name == "disk" else partial(kill_one, rng)
        done.append(attempt(place, command, rng.uniform(0, seconds), trouble, whole))
        sys.stderr.write(f"{name} {number + 1}: {done[-1]}\n")
        series = Series(*TITLES[name], done, seconds)
        result.write_text(json.dumps(asdict(series)), encoding="utf-8")


def make_folder(path: Path) -> Path:
    """Make a folder that holds the packaged pair."""
    path.mkdir()
    for name in ("sunset.png", "sunset.txt"):
        (path / name).write_bytes((ROOT / "glance/assets" / name).read_bytes())
    return path


type Tree = dict[str, psutil.Process]
type Trouble = Callable[[Path, Tree], tuple[str, Callable[[], None]]]
"""Makes trouble; returns what it was, and what ends it."""


def attempt(
    place: Path, command: Sequence[str], moment: float, trouble: Trouble, whole: Path
) -> Trial:
    """Make trouble for one training at the moment, and run it again."""
    with (place.parent / f"{place.name}.txt").open("w+b") as output:
        process = subprocess.Popen(command, cwd=place, stdout=output, stderr=output)
        time.sleep(moment)
        tree = find_tree(process)
        doing, before = describe(place), count_steps(place)
        victim, mend = trouble(place, tree) if tree else ("nobody: it was done", lambda: None)
        exit_code = process.wait(timeout=600)
        _, alive = psutil.wait_procs(tree.values(), timeout=30)
        faults = [f"{len(alive)} processes were left"] if alive else []
        mend()
        (place / "events.jsonl").rename(place / "events before.jsonl") if before else None
        again = subprocess.run(
            command, cwd=place, stdout=output, stderr=output, check=False, timeout=600
        )
        output.seek(0)
        faults += find_traceback(output.read().decode(errors="replace"))
    if again.returncode:
        faults.append(f"the same command again ended with {again.returncode}")
    else:
        faults += compare(place, whole)
    lost = max(0, before + count_steps(place) - 2 * STEPS) if before else 0
    return Trial(moment, victim, doing, exit_code, lost, tuple(faults))


def find_traceback(text: str) -> list[str]:
    """Return what a traceback of glance's ends with; the trainer's are indented, as its last lines.

    The whole of it is shown.
    """
    lines = text.splitlines()
    if "Traceback (most recent call last):" not in lines:
        return []
    sys.stderr.write(text)
    after = lines[lines.index("Traceback (most recent call last):") + 1 :]
    return [f"a traceback: {next((one for one in after if one[:1].strip()), '')}"]


def kill_one(rng: random.Random, _: Path, tree: Tree) -> tuple[str, Callable[[], None]]:
    """Kill one of the processes."""
    victim = rng.choice(sorted(tree))
    tree[victim].kill()
    return victim, lambda: None


def fill_disk(rng: random.Random, place: Path, _: Tree) -> tuple[str, Callable[[], None]]:
    """Take the room that is left, but for a little."""
    ballast = place.parent / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    spared = rng.randrange(SPARED)
    os.truncate(ballast, max(0, ballast.stat().st_size - spared))
    return f"all but {spared // 1000} kB", ballast.unlink


def find_tree(process: "subprocess.Popen[bytes]") -> dict[str, psutil.Process]:
    """Return the processes that can be killed, by what they are."""
    try:
        glance = psutil.Process(process.pid)
        found = [glance, *glance.children(recursive=True)]
        lines = {one: " ".join(one.cmdline()) for one in found}
    except psutil.Error:
        return {}
    if process.poll() is not None:
        return {}
    return {
        name: one
        for name, words in VICTIMS.items()
        for one, line in lines.items()
        if any(one in line for one in words)
        and (name in ("glance", "supervisor") or "supervisor.py" not in line)
        and (name != "trainer" or "accelerate" not in line)
    }


def read_events(place: Path) -> list[dict[str, object]]:
    """Return what glance has told since the last start."""
    path = place / "events.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def count_steps(place: Path) -> int:
    """Return how many steps were done since the last start, in both phases."""
    return sum(event["event"] == "StepDone" for event in read_events(place))


def describe(place: Path) -> str:
    """Say what the training is doing, by the last event that says so."""
    asides = ("TrainerSaid", "MemoryUsed")
    events = [event for event in read_events(place) if event["event"] not in asides]
    if not events:
        return "glance's own start"
    last = events[-1]
    detail = last.get("label") or last.get("step") or last.get("path") or ""
    return f"{last.get('phase', '')}: {last['event']} {detail}".strip()


def compare(place: Path, whole: Path) -> list[str]:
    """Return what the run has not that the undisturbed one has, and the other way round."""
    ours, theirs = list_files(place / "run"), list_files(whole / "run")
    faults = [f"missing: {name}" for name in sorted(theirs - ours)]
    faults += [f"too many: {name}" for name in sorted(ours - theirs)]
    run = RunFolder(place / "run")
    if not load_manifest(run).is_finished:
        faults.append("the manifest does not say that it is done")
    for phase in Phase:
        path = run.lora(phase)
        verify_lora(read_lora(path), path=path, rank=4)
        if not is_final(path):
            faults.append(f"{path.name} of {phase} is not final")
        if digest(path) != digest(RunFolder(whole / "run").lora(phase)):
            faults.append(f"{phase}: other bits than undisturbed")
    return faults


def list_files(run: Path) -> set[str]:
    """Return the files of a run."""
    return {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}


def digest(path: Path) -> str:
    """Return a file's hash."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def render(found: Iterable[Series]) -> str:
    """Return the page."""
    series = list(found)
    return _PAGE.format(
        good=sum(not trial.faults for one in series for trial in one.trials),
        count=sum(len(one.trials) for one in series),
        steps=STEPS,
        interval=INTERVAL,
        tables="\n".join(map(render_series, series)),
    )


def render_series(series: Series) -> str:
    """Return the section of one kind of trouble."""
    rows = "\n".join(
        f"| {number} | {trial.moment:.1f} | {trial.doing} | {trial.victim} | {trial.exit_code} "
        f"| {trial.lost} | {'; '.join(trial.faults) or 'as undisturbed'} |"
        for number, trial in enumerate(series.trials, 1)
    )
    return _SECTION.format(**{**vars(series), "rows": rows})


TITLES = {
    "killed": ("One process is killed", "killed"),
    "at-once": ("One process is killed while both phases are trained at once", "killed"),
    "disk": ("The disk is full", "taken of the disk"),
}
_PAGE = """# Reliability

Written by `uv run python -m benchmarks.reliability`; not by hand.

**{good} of {count}** trainings for which something went wrong at a random moment were finished by
the same command, left no process behind, and hold the same files as an undisturbed one, with the
same LoRAs to the bit.

Each trained both phases of the small model of the package, {steps} steps each with a checkpoint
every {interval}, by real SimpleTuner on the CPU: in the first table through its public command, in
the others with `--launcher direct`, which starts two processes less. The moment was drawn from the
whole length of an undisturbed training, from the first import to the last write. SIGKILL was sent
to one process of the tree, drawn from those that were there; or something else took what was left
of the disk, and gave it back before the command was run again.

Exit code -9: glance itself was killed. 5: it saw its trainer end, and said so. 3: it could not
write itself.

{tables}"""
_SECTION = """## {title}

Undisturbed it took {seconds:.0f} s.

| | second | what it was doing | {trouble} | glance's exit code | steps done twice | afterwards |
|---|---|---|---|---|---|---|
{rows}
"""


if __name__ == "__main__":
    main()
