"""Prompt files, and the prompts that ship with the package."""

import json
import re
import shlex
import subprocess
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from glance.core.errors import InputError, Problem, SettingsError
from glance.evaluation.small_world.world import (
    all_facts,
    is_held_out,
    judging_captions,
    read_caption,
    teaching_captions,
)
from glance.sampling.prompts import (
    MAX_BYTES,
    PromptLine,
    judging_prompts,
    read_prompts,
    teaching_prompts,
)

EXAMPLE = 'write a line like {"prompt": "a cat in the rain", "seed": 7}'
SEED = 'write "seed": 7, for example'
REMEDY = "write one prompt a line, or name it .jsonl and write one JSON object a line"
KEYS = (
    "the keys are prompt, negative_prompt, seed, count, width, height, slow_guidance, "
    "fast_guidance, true_cfg, slow_scale, fast_scale, reference, output"
)


def write(content: str | bytes, name: str = "prompts.jsonl") -> Path:
    path = Path(name)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def problems(path: Path) -> list[Problem]:
    with pytest.raises(InputError) as caught:
        read_prompts(path)
    return list(caught.value.problems)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_text_holds_a_prompt_a_line_on_every_system(end: str) -> None:
    lines = ["# cats", "  # nor this", "", "  猫 🐈  ", "{a|b}", ""]

    found = read_prompts(write("\ufeff" + end.join(lines), "prompts.list"))

    assert found == (PromptLine(prompt="猫 🐈"), PromptLine(prompt="{a|b}"))


@pytest.mark.parametrize("name", ["prompts.jsonl", "prompts.NDJSON"])
def test_json_lines_hold_objects_and_texts(name: str) -> None:
    path = write('\ufeff{"prompt": "a cat", "seed": 7, "width": null}\r\n\r\n"a dog"\r\n', name)

    assert read_prompts(path) == (PromptLine(prompt="a cat", seed=7), PromptLine(prompt="a dog"))


def test_every_setting_can_be_given() -> None:
    line = {"prompt": "a cat\nin the rain", "negative_prompt": "", "seed": [1, 2**63 - 1]}
    line |= {"count": 2, "width": 512, "height": 768, "slow_guidance": 3, "fast_guidance": 1.5}
    line |= {"true_cfg": 2.0, "slow_scale": -0.5, "fast_scale": 1.25}
    line |= {"reference": "../in/猫.png", "output": "cats/猫.webp"}

    [read] = read_prompts(write(json.dumps(line)))

    assert read == PromptLine(**{**line, "seed": (1, 2**63 - 1)})
    assert read.model_fields_set == PromptLine.model_fields.keys()


def test_every_bad_line_is_named_at_once() -> None:
    path = write(
        '{"prompt": "a"}\n\n{"prompt": "a", "seed": "x"}\n{"prompt": "a", "sed": 1}\n'
        '{"seed": 1.5, "colour": 2}\n{oops}\n[1]\n'
    )

    assert problems(path) == [
        Problem("prompts.jsonl:3: seed: 'x': it must be a whole number", SEED),
        Problem("prompts.jsonl:4: unknown key 'sed'", f"did you mean 'seed'? {KEYS}"),
        Problem("prompts.jsonl:5: unknown key 'colour'", KEYS),
        Problem("prompts.jsonl:5: prompt: it is missing", EXAMPLE),
        Problem("prompts.jsonl:5: seed: 1.5: it must be a whole number", SEED),
        Problem(
            "prompts.jsonl:6: not JSON: Expecting property name enclosed in double quotes "
            "(column 2)",
            EXAMPLE,
        ),
        Problem("prompts.jsonl:7: [1] is neither an object nor a text", EXAMPLE),
    ]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ({"seed": True}, "seed: True: it must be a whole number"),
        ({"seed": "x" * 9000}, "seed: 'xxx"),
        ({"seed": -1}, "seed: -1: it must be at least 0"),
        ({"seed": [3, "y"]}, "seed[1]: 'y': it must be a whole number"),
        ({"seed": []}, "seed: []: It is empty"),
        ({"count": 0}, "count: 0: it must be at least 1"),
        ({"width": 64.0}, "width: 64.0: it must be a whole number"),
        ({"height": 8}, "height: 8: it must be at least 16"),
        ({"slow_guidance": False}, "slow_guidance: False: it must be a number"),
        ({"fast_guidance": "1"}, "fast_guidance: '1': it must be a number"),
        ({"fast_scale": 11}, "fast_scale: 11: it must be at most 10"),
        ({"prompt": " \t"}, r"prompt: ' \t': It is empty"),
        ({"prompt": 5}, "prompt: 5: it must be text"),
        ({"reference": ""}, "reference: '': It is empty"),
        *(
            ({"output": name}, f"output: {name!r}: It must lie in the output folder")
            for name in ("../a.png", "b/../../a.png", "/a.png", "C:\\a.png", "C:a.png")
        ),
        ({"output": "\\\\s\\a.png"}, r"output: '\\\\s\\a.png': It must lie in the output folder"),
        ({"output": "..\\a.png"}, r"output: '..\\a.png': It must lie in the output folder"),
        *(
            ({"output": name}, f"output: {name!r}: It must end in .png, .jpg, .jpeg, .webp")
            for name in ("a", "a.gif", ".png", "a.png/", "", "a.png.txt")
        ),
        ({"output": "猫" * 84 + ".png"}, "output: '猫猫猫猫猫"),  # too long for a file system
    ],
    ids=str,
)
def test_values_of_the_wrong_kind_or_size_are_refused(line: dict[str, Any], told: str) -> None:
    [problem] = problems(write(json.dumps({"prompt": "a cat", **line})))

    assert problem.message.startswith(f"prompts.jsonl:1: {told}")
    assert len(problem.message) < 140


def test_no_two_lines_share_a_picture() -> None:
    path = write(
        '{"prompt": "a", "output": "b/a.png"}\n{"prompt": "b", "output": "b/./A.png"}\n'
        '{"prompt": "c", "output": "a.png"}'
    )

    assert problems(path) == [
        Problem(
            "prompts.jsonl:2: output: 'b/./A.png' is the name of line 1's image as well",
            "give each line a name of its own, or none",
        )
    ]


BOTH = ["a cat", {"prompt": "a dog", "seed": 7}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *((name, json.dumps(BOTH)) for name in ("p.json", "p.JSON", "p.jsonl")),
        *((name, json.dumps(BOTH, indent=2)) for name in ("p.json", "p.jsonl")),
        ("p.json", json.dumps({"prompts": BOTH}, indent=1)),
        ("p.json", json.dumps({"tabby": "a cat", "rex": BOTH[1]})),
        ("p.json", '{"prompt": "a cat"}\n{"prompt": "a dog", "seed": 7}'),
        ("p.json", '{\n"prompt": "a dog",\n"seed": 7\n}'),
    ],
    ids=str,
)
def test_the_usual_wrappings_of_prompts_are_understood(name: str, content: str) -> None:
    expected = (PromptLine(prompt="a cat"), PromptLine(prompt="a dog", seed=7))

    assert read_prompts(write(content, name)) == expected["cat" not in content :]


def test_faults_in_a_list_are_named_by_their_number() -> None:
    one = {"prompt": "a", "output": "a.png"}
    path = write(json.dumps([one, {"promt": "a"}, 5, one]), "p.json")

    assert [problem.message for problem in problems(path)] == [
        "p.json, entry 2: unknown key 'promt'",
        "p.json, entry 2: prompt: it is missing",
        "p.json, entry 3: 5 is neither an object nor a text",
        "p.json, entry 4: output: 'a.png' is the name of entry 1's image as well",
    ]


LIST = "name the file .jsonl, or .json for a list"
EMPTY = ": there is no prompt in it"


@pytest.mark.parametrize(
    ("name", "content", "told", "hint"),
    [
        ("p.jsonl", '{"prompt": "a", "seed": 1, "seed": 2}', ":1: key 'seed' is there more", ""),
        ("p.jsonl", '{"prompt": "a", "slow_scale": NaN}', ":1: NaN is not a number that can", ""),
        ("p.jsonl", '{"prompt": "a", "seed": -Infinity}', ":1: -Infinity is not a number", ""),
        ("p.jsonl", "[" * 200_000, ":1: not JSON: too many brackets", ""),
        ("p.jsonl", "1" * 5000, ":1: not JSON: a number has too many digits", ""),
        ("p.json", '["a cat",\n]', ": not JSON: ", ""),
        ("p.json", "a cat\na dog", ": not JSON: Expecting value (line 1, column 1)", ""),
        ("p.json", '[{"prompt": "a", "seed": 1, "seed": 2}]', ": key 'seed' is there more", ""),
        ("p.json", '[{"prompt": "a", "seed": NaN}]', ": NaN is not a number that can be used", ""),
        ("p.json", '{"promt": "a cat"}', ": unknown key 'promt'", ""),
        ("p.json", "[]", ": there is no prompt in it", ""),
        ("p.txt", "a\u2028cat\nGIF\0\x1b", r":2: prompt: 'GIF\x00\x1b': U+0000 in it is no", ""),
        ("p.txt", 'a cat\n{"prompt": "a cat"}\n', """:2: '{"prompt": "a cat"}' is JSON""", LIST),
        ("p.txt", 'a cat\n["a cat", "a dog"]\n', """:2: '["a cat", "a dog"]' is JSON""", LIST),
        ("p.txt", "a cat --w 1024 --h 1024", ":1: '--w 1024' is an option of another", ""),
        ("p.txt", "a cat --n low quality", ":1: '--n low' is an option of another", ""),
        ("p.txt", "a cat --ar 16:9 --v 6", ":1: '--ar 16:9' is an option of another", ""),
        ("p.txt", '--prompt "a cat" --seed 7', """:1: '--prompt "a' is an option of""", ""),
        ("p.txt", "a cat --seed=7", ":1: '--seed=7' is an option of another", ""),
        ("p.csv", "prompt,seed\na cat,1", ": glance reads text and JSON, not .csv", ""),
        ("p.yaml", "- a cat", ": glance reads text and JSON, not .yaml", ""),
        ("p.txt", "<!DOCTYPE html><html>", " is a page of HTML, perhaps an error message", ""),
        ("p.txt", b"\x89PNG\r\n\x1a\n\0", " is a PNG image", ""),
        ("p.txt", "version https://git-lfs.github.com/spec/v1\n", " is a Git LFS pointer, not", ""),
        ("p.txt", b"a" * (MAX_BYTES + 1), " is larger than 10 MB", ""),
        *(("p.txt", content, EMPTY, REMEDY) for content in ("", "\n \n", "\ufeff", "# later")),
        *(("p.jsonl", content, EMPTY, REMEDY) for content in ("", "\n \n", "\ufeff")),
    ],
    ids=lambda value: str(value[:40]),
)
def test_what_holds_no_prompts_is_refused_by_what_it_holds(
    name: str, content: str | bytes, told: str, hint: str
) -> None:
    problem, *more = problems(write(content, name))

    assert problem.message.removeprefix("prompt file ").startswith(f"{name}{told}")
    assert hint in ("", problem.hint)
    assert problem.hint or "is no text" in problem.message
    assert len(more) <= 1


@pytest.mark.parametrize("line", ["a cat -- asleep", "well--known", "a cat --sleepy", "{a cat}"])
def test_prompts_that_look_a_little_like_that_are_kept(line: str) -> None:
    assert read_prompts(write(line, "p.txt")) == (PromptLine(prompt=line),)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("no.txt", "prompt file no.txt does not exist"),
        ("folder", "prompt file folder is not a file"),
        ("n" * 300, f"prompt file {'n' * 300} cannot be read: File name too long"),
        ("a cat's nap", "prompt file a cat's nap does not exist"),
    ],
)
def test_what_is_no_file_is_refused(name: str, told: str) -> None:
    Path("folder").mkdir()

    [problem] = problems(Path(name))

    assert problem.message == told
    if " " in name:
        assert problem.hint == "is it the prompt itself? --prompt 'a cat'\"'\"'s nap'"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "gb18030", "cp1251"])
@pytest.mark.parametrize("name", ["my prompts.txt", "prompts.jsonl"])
def test_other_encodings_get_a_command_that_writes_a_new_file(encoding: str, name: str) -> None:
    text = json.dumps("пейзаж на закате", ensure_ascii=False)
    path = write(text.encode(encoding), name)

    [problem] = problems(path)
    assert problem.hint
    done = subprocess.run(problem.hint, shell=True, check=True, capture_output=True, text=True)

    new = Path(path.stem + ".utf8" + path.suffix)
    assert shlex.split(done.stdout.removeprefix("now give ")) == ["--prompt-file", str(new)]
    assert new.read_text(encoding="utf-8").strip("\ufeff") == text
    assert path.read_bytes() == text.encode(encoding)
    assert read_prompts(new)


def test_the_command_leaves_alone_what_is_there() -> None:
    path = write("a cat".encode("utf-16"), "p.txt")
    [problem] = problems(path)
    Path("p.utf8.txt").write_text("mine")

    done = subprocess.run(problem.hint or "", shell=True, check=False, capture_output=True)

    assert done.returncode != 0
    assert Path("p.utf8.txt").read_text() == "mine"
    assert "p.utf8-2.txt" in (problems(path)[0].hint or "")


def test_of_a_file_that_is_something_else_not_every_line_is_told() -> None:
    found = problems(write("oops\n" * 1500))

    assert len(found) == 201
    assert found[-1] == Problem("prompts.jsonl: and 1,300 problems more", REMEDY)


def outcome(path: Path) -> list[bytes]:
    """What was read or told, as bytes: a lone surrogate could not be printed."""
    try:
        return [line.prompt.encode() for line in read_prompts(path)]
    except InputError as refusal:
        return [f"{problem.message} {problem.hint}".encode() for problem in refusal.problems]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
_LINE = st.dictionaries(st.sampled_from([*PromptLine.model_fields]) | st.text(), _JSON, max_size=4)
_LINES = st.lists((_LINE | _JSON).map(json.dumps), max_size=4).map("\n".join)


@pytest.mark.parametrize("name", ["p.txt", "p.jsonl", "p.json"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    content=st.binary()
    | (st.text() | _LINES).map(lambda text: text.encode("utf-8", "surrogatepass"))
)
@example(content=b'{"prompt": "\\ud800", "\\ud800": "\\ud800"}')
@example(content=b'{"prompt": ' + b"[" * 900 + b"]" * 900 + b"}")
def test_any_bytes_give_prompts_or_an_input_error(name: str, content: bytes) -> None:
    assert outcome(write(content, name))


def test_more_prompts_than_a_plan_holds_are_refused_before_they_are_all_read() -> None:
    Path("many.txt").write_text("a\n" * 10_001)

    with pytest.raises(InputError, match=r"prompt file many.txt holds more than 10,000 prompts"):
        read_prompts(Path("many.txt"))


kinds = pytest.mark.parametrize("world", [False, True], ids=["real", "world"])


def words(prompt: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", prompt.lower()))


@kinds
@pytest.mark.parametrize("prompts", [teaching_prompts, judging_prompts])
def test_fewer_prompts_are_the_first_of_more_and_more_than_there_are_is_refused(
    prompts: Callable[..., tuple[str, ...]], *, world: bool
) -> None:
    assert prompts(4, world=world) == prompts(32, world=world)[:4]
    for count in (0, 2001):
        with pytest.raises(SettingsError, match=f"not {count}") as refused:
            prompts(count, world=world)
        assert "--prompt-file" in str(refused.value.problems[0].hint)


def test_lines_are_plain_text_and_no_two_say_nearly_the_same() -> None:
    everything = teaching_prompts(256, world=False) + judging_prompts(32, world=False)

    for prompt in everything:
        assert re.fullmatch(r"[!-~]([ -~]*[!-~])?", prompt), prompt
        assert prompt.count('"') in (0, 2, 4), prompt
    for one, other in combinations(map(words, everything), 2):
        assert len(one & other) <= 0.5 * len(one | other), one
    taught = set().union(*map(words, everything[:256]))
    assert all(words(prompt) - taught for prompt in everything[256:]), "a subject of its own"


def test_judged_scenes_are_those_that_are_never_trained_on() -> None:
    held_out = [scene.facts for scene in all_facts() if is_held_out(scene)]

    full = teaching_prompts(256, world=True)[1::2]

    judged = judging_prompts(200, world=True)
    assert len({*judged, *teaching_prompts(256, world=True)}) == 200 + 256
    for caption in judged:
        assert any(read_caption(caption).items() <= facts.items() for facts in held_out)
    assert not [caption for caption in full if read_caption(caption) in held_out]


def test_the_files_hold_what_the_world_makes() -> None:
    assert teaching_prompts(256, world=True) == tuple(teaching_captions())
    assert judging_prompts(200, world=True) == tuple(judging_captions())
