"""Kill a training at random moments, from its first import to its last write, and run it again.

`uv run python -m benchmarks.reliability [TRIALS]` writes docs/reliability.md; about two minutes a
trial on two cores. Each trial trains both phases of a small model with real SimpleTuner through
the public command. At a moment drawn from the whole length of an undisturbed run, one process of
the tree is killed with SIGKILL: glance itself, its supervisor, `simpletuner`, accelerate, or the
trainer. Then nothing of the tree may be left, the same command must end well, and the run must
hold the files of the undisturbed one, with LoRAs that pass the same verification.
"""

import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from glance.lora import is_final, read_lora, verify_lora
from glance.run import RunFolder, load_manifest
from glance.schedule import Phase

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reliability.md"
STEPS, INTERVAL = 30, 3
SEED = 20261124
COMMAND = (
    *(sys.executable, "-m", "glance", "train", "--image", "sunset.png", "--run", "run", "--quiet"),
    *("--model", str(ROOT / "glance/assets/small-flux"), "--device", "cpu", "--resolution", "64"),
    *("--steps", str(STEPS), "--rank", "4", "--events", "events.jsonl"),
)
VICTIMS = {
    "glance": "glance train",
    "supervisor": "supervisor.py",
    "simpletuner": "simpletuner train",
    "accelerate": "accelerate launch",
    "trainer": "simpletuner/train.py",
}


@dataclass(frozen=True)
class Trial:
    """What happened in one."""

    moment: float
    victim: str
    doing: str
    exit_code: int
    lost: int
    faults: tuple[str, ...]


def main() -> None:
    """Run the trials and write the page."""
    trials = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    rng = random.Random(SEED)
    with tempfile.TemporaryDirectory() as folder:
        whole = make_folder(Path(folder) / "undisturbed")
        began = time.monotonic()
        subprocess.run(COMMAND, cwd=whole, check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - began
        done = []
        for number in range(trials):
            place = make_folder(Path(folder) / str(number))
            done.append(attempt(place, rng.uniform(0, seconds), rng, whole))
            sys.stderr.write(f"{number + 1}: {done[-1]}\n")
    PAGE.write_text(render(done, seconds), encoding="utf-8")


def make_folder(path: Path) -> Path:
    """Make a folder that holds the packaged pair."""
    path.mkdir()
    for name in ("sunset.png", "sunset.txt"):
        (path / name).write_bytes((ROOT / "glance/assets" / name).read_bytes())
    return path


def attempt(place: Path, moment: float, rng: random.Random, whole: Path) -> Trial:
    """Kill one training at the moment, and run it again."""
    with (place / "output").open("wb") as output:
        process = subprocess.Popen(COMMAND, cwd=place, stdout=output, stderr=output)
        time.sleep(moment)
        tree = find_tree(process)
        victim = rng.choice(sorted(tree)) if tree else "nobody: it was done"
        doing, before = describe(place), count_steps(place)
        if tree:
            tree[victim].kill()
        exit_code = process.wait(timeout=60)
        _, alive = psutil.wait_procs(tree.values(), timeout=30)
        faults = [f"{len(alive)} processes were left"] if alive else []
        (place / "events.jsonl").rename(place / "events before.jsonl") if before else None
        again = subprocess.run(
            COMMAND, cwd=place, stdout=output, stderr=output, check=False, timeout=600
        )
    if again.returncode:
        faults.append(f"the same command again ended with {again.returncode}")
    else:
        faults += compare(place, whole)
    lost = max(0, before + count_steps(place) - 2 * STEPS) if before else 0
    return Trial(moment, victim, doing, exit_code, lost, tuple(faults))


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
        if words in line
        and (name in ("glance", "supervisor") or "supervisor.py" not in line)
        and (name != "trainer" or "accelerate" not in line)
    }


def read_events(place: Path) -> list[dict[str, object]]:
    """Return what glance has told since the last start."""
    path = place / "events.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


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
            sys.stderr.write(f"{phase}: other bits than undisturbed\n")
    return faults


def list_files(run: Path) -> set[str]:
    """Return the files of a run."""
    return {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}


def digest(path: Path) -> str:
    """Return a file's hash."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def render(trials: list[Trial], seconds: float) -> str:
    """Return the page."""
    good = sum(not trial.faults for trial in trials)
    rows = "\n".join(
        f"| {number} | {trial.moment:.1f} | {trial.doing} | {trial.victim} | {trial.exit_code} "
        f"| {trial.lost} | {'; '.join(trial.faults) or 'as undisturbed'} |"
        for number, trial in enumerate(trials, 1)
    )
    return _PAGE.format(
        good=good, count=len(trials), seconds=seconds, rows=rows, steps=STEPS, interval=INTERVAL
    )


_PAGE = """# Reliability

Written by `uv run python -m benchmarks.reliability`; not by hand.

**{good} of {count}** trainings that were killed at a random moment were finished by the same
command, left no process behind, and hold the same files as an undisturbed one, with LoRAs that
pass the same verification.

Each trained both phases of the small model of the package, {steps} steps each with a checkpoint
every {interval}, by real SimpleTuner through its public command, on the CPU; undisturbed that took
{seconds:.0f} s. The moment was drawn from that whole length, from the first import to the last
write, and SIGKILL sent to one process of the tree, drawn from those that were there.

| | second | what it was doing | killed | glance's exit code | steps done twice | afterwards |
|---|---|---|---|---|---|---|
{rows}

Exit code -9: glance itself was killed. 5: it saw its trainer end, and said so.
"""


if __name__ == "__main__":
    main()
