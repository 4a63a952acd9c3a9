"""The prompt file: what it may hold, and that all of its faults are named at once."""

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from glance.core.errors import InputError, Problem
from glance.sampling.prompts import MAX_BYTES, PromptLine, read_prompts

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


def fault(**line: Any) -> str:
    [problem] = problems(write(json.dumps({"prompt": "a cat", **line})))
    return problem.message


# --- text ----------------------------------------------------------------------------------------


def test_text_file_holds_a_prompt_a_line() -> None:
    path = write("a cat\n\n# not this\n  # nor this\n  a dog  \n", "prompts.txt")

    assert read_prompts(path) == (PromptLine(prompt="a cat"), PromptLine(prompt="a dog"))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_windows_texts_are_read(end: str) -> None:
    path = write("\ufeff" + end.join(["# cats", "猫 🐈", "{a|b}", ""]), "prompts.list")

    assert [line.prompt for line in read_prompts(path)] == ["猫 🐈", "{a|b}"]


def test_line_separators_of_other_worlds_stay_in_the_prompt() -> None:
    assert len(read_prompts(write("a\u2028b", "p.txt"))) == 1


def test_a_binary_file_is_refused_line_by_line() -> None:
    [problem] = problems(write("a cat\nGIF\x00\x1b", "p.txt"))

    assert problem.message == r"p.txt:2: prompt: 'GIF\x00\x1b': U+0000 in it is no text"


# --- JSON ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["prompts.jsonl", "prompts.NDJSON"])
def test_json_lines_hold_objects_and_texts(name: str) -> None:
    path = write('\ufeff{"prompt": "a cat", "seed": 7}\r\n\r\n"a dog"\r\n', name)

    assert read_prompts(path) == (PromptLine(prompt="a cat", seed=7), PromptLine(prompt="a dog"))


def test_every_setting_can_be_given() -> None:
    line = {
        "prompt": "a cat\nin the rain",
        "negative_prompt": "",
        "seed": [1, 2**63 - 1],
        "count": 2,
        "width": 512,
        "height": 768,
        "slow_guidance": 3,
        "fast_guidance": 1.5,
        "true_cfg": 2.0,
        "slow_scale": -0.5,
        "fast_scale": 1.25,
        "reference": "../in/猫.png",
        "output": "cats/猫.webp",
    }

    [read] = read_prompts(write(json.dumps(line)))

    assert read == PromptLine(**{**line, "seed": (1, 2**63 - 1)})


def test_null_is_what_is_not_given() -> None:
    assert read_prompts(write('{"prompt": "a", "seed": null}')) == (PromptLine(prompt="a"),)


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
    ],
    ids=str,
)
def test_values_of_the_wrong_kind_or_size_are_refused(line: dict[str, Any], told: str) -> None:
    assert fault(**line) == f"prompts.jsonl:1: {told}"


def test_a_key_is_there_once() -> None:
    [problem] = problems(write('{"prompt": "a", "seed": 1, "seed": 2}'))

    assert problem.message == "prompts.jsonl:1: key 'seed' is there more than once"


@pytest.mark.parametrize("number", ["NaN", "-Infinity"])
def test_numbers_are_finite(number: str) -> None:
    [problem] = problems(write(f'{{"prompt": "a", "slow_scale": {number}}}'))

    assert problem.message == f"prompts.jsonl:1: {number} is not a number that can be used"


@pytest.mark.parametrize(
    ("text", "why"),
    [("[" * 200_000, "too many brackets"), ("1" * 5000, "a number has too many digits")],
    ids=["deep", "long"],
)
def test_json_that_would_exhaust_the_parser_is_refused(text: str, why: str) -> None:
    [problem] = problems(write(text))

    assert problem == Problem(f"prompts.jsonl:1: not JSON: {why}", EXAMPLE)


def test_long_values_are_shown_in_part() -> None:
    [problem] = problems(write(json.dumps({"prompt": "a", "seed": "x" * 9000})))

    assert len(problem.message) < 140


# --- output names --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["../a.png", "b/../../a.png", "/a.png", "C:\\a.png", "C:a.png", "\\\\s\\a.png", "..\\a.png"],
)
def test_pictures_lie_in_the_output_folder(name: str) -> None:
    assert fault(output=name).endswith(": It must lie in the output folder")


@pytest.mark.parametrize("name", ["a", "a.gif", ".png", "a.png/", "", "a.png.txt"])
def test_pictures_have_an_ending_that_can_be_written(name: str) -> None:
    assert fault(output=name).endswith(": It must end in .png, .jpg, .jpeg, .webp")


def test_names_longer_than_a_file_systems_are_refused() -> None:
    assert fault(output="猫" * 84 + ".png").endswith(": It is longer than 255 bytes")


def test_no_two_lines_share_a_picture() -> None:
    path = write(
        '{"prompt": "a", "output": "b/a.png"}\n{"prompt": "b", "output": "b/./A.png"}\n'
        '{"prompt": "c", "output": "a.png"}'
    )

    assert problems(path) == [
        Problem(
            "prompts.jsonl:2: output: 'b/./A.png' is the name of line 1's picture as well",
            "give each line a name of its own, or none",
        )
    ]


# --- one JSON document, and what is meant for other programs ------------------------------------


@pytest.mark.parametrize("name", ["p.json", "p.JSON", "p.jsonl"])
@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_list_holds_prompts(name: str, indent: int | None) -> None:
    path = write(json.dumps(["a cat", {"prompt": "a dog", "seed": 7}], indent=indent), name)

    assert read_prompts(path) == (PromptLine(prompt="a cat"), PromptLine(prompt="a dog", seed=7))


@pytest.mark.parametrize(
    "content",
    [
        {"prompts": ["a cat", "a dog"]},
        {"tabby": "a cat", "rex": "a dog"},
        {"tabby": {"prompt": "a cat"}, "rex": {"prompt": "a dog"}},
    ],
    ids=["under a key", "a library", "a library of objects"],
)
def test_the_usual_wrappings_of_prompts_are_understood(content: Any) -> None:
    read = read_prompts(write(json.dumps(content, indent=1), "p.json"))

    assert [line.prompt for line in read] == ["a cat", "a dog"]


def test_one_object_is_one_prompt() -> None:
    path = write('{\n"prompt": "a cat",\n"seed": 7\n}', "p.json")

    assert read_prompts(path) == (PromptLine(prompt="a cat", seed=7),)


def test_json_lines_may_be_called_json() -> None:
    path = write('{"prompt": "a cat"}\n"a dog"\n', "p.json")

    assert [line.prompt for line in read_prompts(path)] == ["a cat", "a dog"]


def test_faults_in_a_list_are_named_by_their_number() -> None:
    one = {"prompt": "a", "output": "a.png"}
    path = write(json.dumps([one, {"promt": "a"}, 5, one]), "p.json")

    assert [problem.message for problem in problems(path)] == [
        "p.json, entry 2: unknown key 'promt'",
        "p.json, entry 2: prompt: it is missing",
        "p.json, entry 3: 5 is neither an object nor a text",
        "p.json, entry 4: output: 'a.png' is the name of entry 1's picture as well",
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('["a cat",\n]', "prompt file p.json: not JSON: "),
        ("a cat\na dog", "prompt file p.json: not JSON: Expecting value (line 1, column 1)"),
        ('[{"prompt": "a", "seed": 1, "seed": 2}]', "p.json: key 'seed' is there more than once"),
        ('[{"prompt": "a", "seed": NaN}]', "p.json: NaN is not a number that can be used"),
        ('{"promt": "a cat"}', "p.json: unknown key 'promt'"),
        ("[]", "prompt file p.json: there is no prompt in it"),
    ],
)
def test_a_document_that_is_no_list_of_prompts_is_refused(content: str, told: str) -> None:
    assert problems(write(content, "p.json"))[0].message.startswith(told)


@pytest.mark.parametrize("line", ['{"prompt": "a cat"}', '["a cat", "a dog"]'])
def test_json_in_a_text_file_is_not_painted_as_words(line: str) -> None:
    [problem] = problems(write(f"a cat\n{line}\n", "p.txt"))

    assert problem.message.startswith("p.txt:2: ")
    assert problem.message.endswith("is JSON, and would be taken as words of the prompt")
    assert problem.hint == "name the file .jsonl, or .json for a list"


@pytest.mark.parametrize(
    ("line", "option"),
    [
        ("a cat --w 1024 --h 1024 --d 42", "--w 1024"),
        ("a cat --n low quality", "--n low"),
        ("a cat --ar 16:9 --v 6", "--ar 16:9"),
        ('--prompt "a cat" --seed 7', '--prompt "a'),
        ("a cat --seed=7", "--seed=7"),
    ],
)
def test_options_of_other_programs_are_not_painted_as_words(line: str, option: str) -> None:
    [problem] = problems(write(line, "p.txt"))

    assert problem.message.startswith(f"p.txt:1: {option!r} is an option of another program")


@pytest.mark.parametrize("line", ["a cat -- asleep", "well--known", "a cat --sleepy", "{a cat}"])
def test_prompts_that_look_a_little_like_that_are_kept(line: str) -> None:
    assert read_prompts(write(line, "p.txt")) == (PromptLine(prompt=line),)


# --- the file ------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["", "\n \n", "\ufeff"])
@pytest.mark.parametrize("name", ["prompts.txt", "prompts.jsonl"])
def test_a_file_without_a_prompt_is_refused(content: str, name: str) -> None:
    assert problems(write(content, name)) == [
        Problem(f"prompt file {name}: there is no prompt in it", REMEDY)
    ]


def test_comments_alone_are_no_prompt() -> None:
    [problem] = problems(write("# later", "prompts.txt"))

    assert problem.message == "prompt file prompts.txt: there is no prompt in it"


def test_a_missing_file_and_a_folder_are_refused() -> None:
    Path("folder").mkdir()

    assert [
        problem.message for name in ("no.txt", "folder") for problem in problems(Path(name))
    ] == [
        "prompt file no.txt does not exist",
        "prompt file folder is not a file",
    ]


def test_a_file_that_may_not_be_reached_is_refused() -> None:
    [problem] = problems(Path("n" * 300))

    assert problem.message.endswith(" cannot be read: File name too long")


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


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("p.csv", "prompt,seed\na cat,1", "p.csv: glance reads text and JSON, not .csv"),
        ("p.yaml", "- a cat", "p.yaml: glance reads text and JSON, not .yaml"),
        ("p.txt", "<!DOCTYPE html><html>", "p.txt is a page of HTML, perhaps an error message"),
        ("p.txt", b"\x89PNG\r\n\x1a\n\0", "p.txt is a PNG picture"),
        (
            "p.txt",
            "version https://git-lfs.github.com/spec/v1\noid sha256:0",
            "p.txt is a Git LFS pointer, not the file itself",
        ),
    ],
)
def test_other_kinds_of_files_are_named(name: str, content: str | bytes, told: str) -> None:
    [problem] = problems(write(content, name))

    assert problem.message == f"prompt file {told}"
    assert problem.hint


def test_a_prompt_in_place_of_a_file_is_recognised() -> None:
    [problem] = problems(Path("a cat's nap"))

    assert problem.hint == "is it the prompt itself? --prompt 'a cat'\"'\"'s nap'"


def test_large_files_are_refused() -> None:
    [problem] = problems(write(b"a" * (MAX_BYTES + 1), "prompts.txt"))

    assert problem.message == "prompt file prompts.txt is larger than 10 MB"


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
_LINES = st.dictionaries(
    st.sampled_from([*PromptLine.model_fields]) | st.text(), _JSON, max_size=4
).map(json.dumps)


@pytest.mark.parametrize("name", ["p.txt", "p.jsonl", "p.json"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
@example(content=b'{"prompt": "\\ud800", "\\ud800": "\\ud800"}')
@example(content=b'{"prompt": ' + b"[" * 900 + b"]" * 900 + b"}")
def test_any_bytes_give_prompts_or_an_input_error(name: str, content: bytes) -> None:
    assert outcome(write(content, name))


@pytest.mark.parametrize("name", ["p.jsonl", "p.json"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(lines=st.lists(_LINES | _JSON.map(json.dumps), max_size=4))
def test_any_json_gives_prompts_or_an_input_error(name: str, lines: list[str]) -> None:
    assert outcome(write("\n".join(lines), name))


def test_more_prompts_than_a_plan_holds_are_refused_before_they_are_all_read() -> None:
    Path("many.txt").write_text("a\n" * 10_001)

    with pytest.raises(InputError, match=r"prompt file many.txt holds more than 10,000 prompts"):
        read_prompts(Path("many.txt"))
