"""All commands alike: their help, and one exit code for one cause (docs/cli.md has the table)."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.commands import TRAIN, Glance
from fakes.comparisons import write_caption
from fakes.pairs import glance_header, write_lora, write_run
from fakes.trainer import FakeSimpleTuner
from typer.main import get_command

from glance import __version__
from glance.cli import app
from glance.cli._command import Command, CommandGroup
from glance.core.errors import GlanceError
from glance.core.phase import Phase

pytestmark = pytest.mark.usefixtures("surroundings")

ROOT = Path(__file__).parents[3]
TRAININGS = ("train", "distill")
PAINTERS = ("distill", "infer", "compare", "optimize")
EXPORTS = ("comfyui", "diffusers", "hub")
SMALL = ["--model", "acme/tiny", "--device", "cpu"]
RUN = ["--run", "runs/cat", "--device", "cpu"]

COMMANDS: dict[str, list[str]] = {
    "check": ["check", "cat.png", "--resolution", "64"],
    "schedule": ["schedule"],
    "optimize": ["schedule", "optimize", "--prompt", "x", "--device", "cpu"],
    "train": [*TRAIN, "--run", "runs/new", "--dry-run"],
    "distill": ["distill", *SMALL, "--size", "64x64", "--prompt", "x", "--dry-run"],
    "infer": ["infer", "--prompt", "x", *RUN, "--dry-run"],
    "infer by hand": ["infer", "--prompt", "x", *SMALL, "--dry-run"],
    "compare": ["compare", "--prompt", "x", *RUN, "--dry-run"],
    "info": ["info"],
    "import": ["import", "--dry-run"],
    "import loras": [
        *("import", "--slow-lora", "slow.safetensors", "--fast-lora", "fast.safetensors"),
        *("--family", "flux", "--dry-run"),
    ],
    "comfyui": ["export", "comfyui"],
    "diffusers": ["export", "diffusers"],
    "hub": ["export", "hub", "--repo", "x", "--dry-run"],
    "hub really": ["export", "hub", "--repo", "x"],
    "list": ["runs", "list"],
    "show": ["runs", "show"],
    "log": ["runs", "log"],
    "clean": ["runs", "clean", "--dry-run"],
    "doctor": ["doctor", "--device", "cpu"],
    "demo": ["demo"],
}
"""Commands as they work here, or as they do with a path behind them."""


@pytest.fixture
def surroundings(pair: Path) -> None:
    """A pair, a finished run, two LoRAs, and files that are something else."""
    write_run(Path("runs/cat"))
    write_caption(Path("runs/cat"), "a grey circle")
    for phase in Phase:
        write_lora(Path(f"{phase}.safetensors"), glance_header(phase))
    Path("prompts.txt").write_text("a hill\n")
    for name in ("text.txt", "text.json"):
        Path(name).write_text("nothing of the kind")
    for name in ("folder/deep", "folder.json"):
        Path(name).mkdir(parents=True)
    Path("folder/deep/theirs.txt").write_text("")


WORKING = [
    *("check", "schedule", "train", "distill", "infer", "compare", "import loras", "list"),
    *(f"{name}: runs/cat" for name in ("info", "show", "clean", *EXPORTS)),
    "infer by hand: --no-lora",
]


@pytest.mark.parametrize("case", WORKING)
def test_the_commands_that_are_spoilt_here_work(invoke: Glance, case: str) -> None:
    name, _, more = case.partition(": ")

    done = invoke(*COMMANDS[name], *more.split())

    assert done.code == 0, done.err


LOOKS = ("show", "log", "clean", "info", *EXPORTS)
WITH_LISTS = ("schedule", "train", "distill", "infer", "import loras")
WITH_FAMILY = ("check", "schedule", "optimize", *TRAININGS, "infer", "infer by hand", "doctor")


def each(names: tuple[str, ...], *more: str) -> list[str]:
    """Return `command: what is added to it`, for each command and each of these."""
    return [f"{name}: {words}" for name in names for words in more]


FLAGS_ARE_WRONG = [
    *each(("infer",), "--run runs/cat --slow-lora a", "--slow-only --no-lora"),
    *each(("infer by hand",), "--slow-lora slow.safetensors"),
    *each(("distill",), "--prompt-file prompts.txt"),
    *each(("import",), "", "folder", "--slow-lora a"),
    *each(("import loras",), "--caption circle"),
    *each(("schedule", "train"), "--teacher-steps 20"),
    *each(("schedule",), "--schedule paper --slow-steps 3", "--schedule own --teacher-steps 50"),
    *each(("schedule",), "--plot x.png optimize"),
]
NUMBERS_ARE_NONE = [
    *each(("distill",), *(f"--steps {text}" for text in ("0", "-1", "x", "1.5"))),
    *each(("distill", "doctor"), "--rank 0"),
    *each(("distill", "infer", "compare"), "--seed -1"),
    *each(("infer", "compare"), "--count 0", "--count 100000000"),
    *each(PAINTERS, "--batch-size 0"),
    *each(TRAININGS, *(f"--learning-rate {text}" for text in ("0", "nan", "fast", "2"))),
    *each(("train",), "--preview-every 0"),
    *each(TRAININGS, "--stop-within -1", "--gpu-ids x", f"--gpu-ids {'9' * 5000}"),
    *each(("infer", "optimize"), "--slow-guidance 101"),
    *each(("infer", "comfyui"), "--width 100", "--height x"),
    *each(("distill", "compare", "optimize"), "--teacher-steps 1", "--teacher-steps 9999"),
    *each(("check", "doctor"), "--resolution 100", "--resolution big"),
    *each(("schedule", "optimize"), "--size big", "--size 0x64", "--size 64"),
    *each(("schedule",), f"--size {'9' * 5000}x64", "--size 64x64x64"),
    *each(("distill",), "--noises 0", "--guidance -1"),
    *each(("optimize",), "--steps 100000000", "--steps 1", "--steps 12 --teacher-steps 20"),
    *each(("demo",), "--steps 0"),
    *each(("log",), "runs/cat --lines -1"),
    *each(("import loras",), "--alpha 0"),
    *each(("infer",), "--slow-scale 11"),
]
NAMES_ARE_UNKNOWN = [
    *each(WITH_FAMILY, "--family sd1"),
    *each(WITH_LISTS, "--schedule nope", f"--schedule {'x' * 300}"),
    *each((*TRAININGS, "doctor"), "--vram 7gb", "--launcher nope"),
    *each(PAINTERS, "--offload much", "--quantize 2bit"),
    *each(("train", "distill"), "--phase third"),
    *each(TRAININGS, "--set nonsense=1", "--set nonsense"),
    *each(("check", "train"), "--crop round"),
    *each(("log",), "runs/cat --phase third"),
    *each(("compare",), "--metric beauty"),
    *each(("infer",), "--dtype fp4", "--output x.gif"),
    *each(("schedule",), "--plot x.gif"),
    *each(("show",), "runs/cat --plot x.gif"),
    *each(("hub",), "runs/cat --license no/such", "runs/cat --sample-license x_y"),
]
LISTS_ARE_NONE = each(
    WITH_LISTS, *(f"--slow-timesteps {text}" for text in ("a,b", "900,950", "1001", "0", "nan"))
)
FILES = ("nowhere.txt", "folder", "text.txt")
FILES_ARE_NONE = [
    *each(("infer", "compare"), *(f"--prompt-file {file}" for file in FILES[:2])),
    *each(LOOKS, *FILES, "x" * 300),
    *each(("info",), "cat.png"),
    *each(WITH_LISTS, *(f"--schedule {file}.json" for file in ("nowhere", "folder", "text"))),
    *each(("infer",), *(f"--init-latents {file}" for file in FILES)),
    *each(("infer",), *(f"--from-image {file}" for file in FILES)),
    *each(("distill",), *(f"--teacher-lora {file}" for file in FILES)),
    *each(("import",), *(f"--slow-lora {file} --fast-lora {file}" for file in FILES)),
    *each(("infer by hand",), *(f"--slow-lora {file} --fast-lora {file}" for file in FILES)),
    *each(("list",), "nowhere.txt", "text.txt"),
    *each(("infer", "compare"), "--run nowhere", "--run folder"),
    *each(("check", "train", "distill", "infer"), "--source-image nowhere.txt"),
]
OTHERS_ARE_THERE = [
    *each(("train", "distill"), "--run text.txt", "--run folder/deep"),
    *each(("compare", "infer"), "--output text.txt/"),
    *each(("comfyui", "diffusers"), "runs/cat --output text.txt", "runs/cat --output runs"),
    *each(("import loras",), "--run runs/cat"),
    *each(("optimize",), "--output cat.png"),
]
DO_NOT_FIT = [
    *each(("infer",), "--family sd3", "--negative-prompt blur"),
    *each(("infer by hand",), "--no-lora --family sd3 --true-cfg 2"),
    *each(("infer by hand",), "--no-lora --family sd3 --reshift"),
    *each(("check", "train", "distill", "infer"), "--source-image cat.png"),
    *each(("infer by hand",), "--no-lora --family qwen_image_edit_2511"),
    *each(("check",), "--family qwen_image_edit_2511"),
    *each(("train",), "--family sd3", "--model slow.safetensors"),
    *each(("schedule",), "--schedule optimal --slow-steps 3"),
]
MACHINE_LACKS = [
    *each(("schedule", "optimize", "infer"), "--model ./nowhere", "--model nowhere"),
    *each(("schedule",), "--model acme/absent", "--schedule auto --model acme/absent"),
    *each(("schedule",), "--schedule auto --model ./nowhere", "--schedule auto --model nowhere"),
    *each(("infer", "compare"), "--offload offload", "--quantize 4bit"),
    *each(("infer",), "--output text.txt/x.png"),
    *each(("compare",), "--output text.txt/x"),
    *each(("optimize",), "--output text.txt/x.json"),
    *each(("schedule",), "--plot text.txt/x.png"),
    *each(("train", "import loras", "doctor"), "--run text.txt/x"),
    *each(("comfyui", "diffusers"), "runs/cat --output text.txt/x"),
    *each(("hub really",), "runs/cat"),
    *each(("train", "distill", "import loras", "doctor"), f"--run {'x' * 300}"),
    *each(("infer", "compare", "optimize"), f"--output {'x' * 300}"),
    *each(("infer",), f"--output {'x' * 300}.png"),
    *each(("comfyui", "diffusers"), f"runs/cat --output {'x' * 300}"),
]
CASES = [
    *((2, case) for case in FLAGS_ARE_WRONG),
    *((4, case) for case in (*NUMBERS_ARE_NONE, *NAMES_ARE_UNKNOWN, *LISTS_ARE_NONE)),
    *((4, case) for case in (*FILES_ARE_NONE, *OTHERS_ARE_THERE, *DO_NOT_FIT)),
    *((3, case) for case in MACHINE_LACKS),
]


@pytest.mark.parametrize(("code", "case"), CASES, ids=lambda value: str(value)[:60])
def test_one_cause_has_one_exit_code(
    invoke: Glance, simpletuner: FakeSimpleTuner, code: int, case: str
) -> None:
    name, _, more = case.partition(": ")
    command = COMMANDS[name]
    given = [word for word in more.split() if word.startswith("--")]
    if code == 3:  # what a dry run need not find out
        command = [word for word in command if word != "--dry-run"]

    before = set(Path().rglob("*"))

    done = invoke(*without(command, given), *more.split())

    assert done.code == code, done.err
    assert set(Path().rglob("*")) == before
    assert "error: " in done.err or name == "doctor"
    said = done.err + done.out
    assert code == 2 or any(word.strip("-/")[:40] in said for word in more.split()), done.err
    for foreign in ("Input should", "Value error", "Traceback", "validation error", "{'"):
        assert foreign not in done.err + done.out


def without(command: list[str], flags: list[str]) -> list[str]:
    """Return the command without the values of flags that it is going to be given."""
    kept = list(command)
    for flag in flags:
        while flag in kept and flag != "--prompt":
            place = kept.index(flag)
            del kept[place : place + (1 if flag == "--dry-run" else 2)]
    return kept


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        yield (*path, name), command
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))


ALL = list(commands(get_command(app)))
OPTIONS = [
    (path, option)
    for path, command in ALL
    for option in command.params
    if option.param_type_name == "option" and not option.is_flag
]


def test_every_command_is_held_to_the_rules_and_shows_an_example(invoke: Glance) -> None:
    groups = {("export",), ("runs",), ("batch",)}  # which have no flags of their own
    lax = [path for path, command in ALL if not isinstance(command, Command | CommandGroup)]
    assert set(lax) == groups

    overview = invoke("--help").out
    for path, command in ALL:
        if not (command.hidden or path in groups):
            assert f"\n  {path[0]} " in overview
            assert f"glance {' '.join(path)} " in f"{command.help} ".replace("\n", " "), path
    assert "--launcher: see --help-all" in invoke("train", "--help").out
    assert re.search(r"^  --launcher \S+\s+Start", invoke("train", "--help-all").out, re.M)


def test_a_flag_that_holds_one_value_is_given_once_in_every_command(invoke: Glance) -> None:
    """The first of two would be dropped, and an hour later nobody knows it."""
    for path, option in OPTIONS:
        flag = max(option.opts, key=len)
        if not option.multiple:
            done = invoke(*path, flag, "first", f"{flag}=second")
            said = f"error: {flag} is given 2 times, and holds one value: first, second\n"
            assert (done.code, done.err[: len(said)]) == (2, said), (path, flag)
    assert invoke(*COMMANDS["infer"], "--prompt", "another").code == 0
    assert invoke("schedule", "--quiet", "--quiet").code == 0


def test_what_is_no_number_and_no_choice_is_a_bad_value_in_every_command(invoke: Glance) -> None:
    for path, option in OPTIONS:
        kind = option.type_descriptor
        if kind.annotation in (int, float) or kind.is_choice:
            flag = max(option.opts, key=len)
            done = invoke(*path, flag, "nonsense")
            assert done.code == 4, (path, flag, done.err)
            assert done.err.startswith(f"error: {flag} nonsense: it must be "), done.err
            assert re.search(rf"^  hint: {flag} \S+, for example$", done.err, re.M), done.err


def test_what_is_not_known_is_wrong_usage_in_every_command(invoke: Glance) -> None:
    for path, _ in ALL:
        assert invoke(*path, "--no-such-flag").code == 2, path
    assert invoke("no-such-command").code == invoke("runs", "no-such").code == 2
    assert invoke("train").code == invoke("export", "hub").code == 2  # a flag is missing
    assert invoke("train", "--image").code == invoke("schedule", "--slow-steps").code == 2


@pytest.mark.parametrize("typed", ["101.50", "+101.5", "1e999", "0101.5"])
def test_a_number_is_said_as_it_was_typed(invoke: Glance, typed: str) -> None:
    done = invoke(*COMMANDS["infer"], "--slow-guidance", typed)

    assert done.err.endswith("for example\n")
    assert f"error: --slow-guidance {typed}: it must be " in done.err


def test_the_table_has_every_code(invoke: Glance) -> None:
    table = (ROOT / "docs/cli.md").read_text().split("## Exit codes")[1].split("## glance")[0]
    rows = "".join(re.findall(r"^\|([\d, ]+)\|", table, re.M))
    documented = set(map(int, re.findall(r"\d+", rows)))

    def codes(error: type[GlanceError]) -> set[int]:
        return {error.exit_code}.union(*map(codes, error.__subclasses__()))

    assert documented == {0, 129, 130, 143} | codes(GlanceError)


def test_version_is_one_line_on_stdout(glance: Glance) -> None:
    done = glance("--version")

    assert (done.code, done.out, done.err) == (0, f"glance {__version__}\n", "")


def test_a_refusal_is_one_document_with_json(glance: Glance) -> None:
    unreadable = os.fsdecode(b"\xff.png")  # no text: shown escaped
    for arguments, code, said in (
        (["infer", "--count", "0"], 4, "--count 0"),
        (["infer", "--no-such"], 2, "--no-such"),
        (["check", unreadable, "--caption", "x"], 4, r"\udcff.png"),
    ):
        done = glance(*arguments, "--json")
        assert (done.code, done.document["error"]["exit_code"]) == (code, code)
        assert done.document["error"]["problems"][0]["message"]
        assert done.err.startswith("error: ")
        assert said in done.err


def test_a_reader_that_leaves_is_no_traceback() -> None:
    script = f"{sys.executable} -m glance schedule | true"

    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)

    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
