"""Files of settings: all that people's editors write is read, or refused with what is wrong."""

from pathlib import Path

import pytest

from glance.core.documents import is_rendered, read_document, render_document
from glance.core.errors import SettingsError

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{one}: &{one} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, one in zip("abcdefg", "bcdefgh", strict=True)
)


def write(content: str | bytes) -> Path:
    path = Path("pair.yaml")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "--config pair.yaml: it is empty"),
        ("# only this\n", "--config pair.yaml: it is empty"),
        ("- a\n", "--config pair.yaml: it does not hold options by their names"),
        ("hello", "--config pair.yaml: it does not hold options by their names"),
        ("a: 1\n\tb: 2\n", "--config pair.yaml: line 2: found character '\\t' that cannot start"),
        ("a: a fox: red\n", "--config pair.yaml: line 1: mapping values are not allowed here"),
        ("a: 1\n---\nb: 2\n", "--config pair.yaml: line 2: but found another document"),
        ("a: 1\nb: 2\na: 3\n", "pair.yaml, line 3: a is there already, in line 1"),
        ("a:\n  b: 1\n  b: 2\n", "pair.yaml, line 3: b is there already, in line 2"),
        ("? [a]\n: 1\n", "pair.yaml, line 1: a name belongs before the colon"),
        (bytes(range(256)), "--config pair.yaml: it is no YAML, or not in UTF-8"),
        ("a: ärger".encode("latin-1"), "--config pair.yaml: it is no YAML, or not in UTF-8"),
        ("a: " + "[" * 5000, "--config pair.yaml: it is no YAML"),
        ("a: " + "x" * 300_000, "--config pair.yaml: it has more than 250,000 bytes"),
        (BOMB, "pair.yaml: it has too many values"),
        ("a: &a [*a]\n", "pair.yaml: it has too many values, or is nested too deeply"),
    ],
)
def test_what_is_no_file_of_settings_is_refused(content: str | bytes, problem: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        read_document(write(content), "--config")

    [found] = refusal.value.problems
    assert found.message.startswith(problem)
    assert found.hint


@pytest.mark.parametrize("path", ["missing.yaml", ".", "/dev/zero", "nul\0.yaml"])
def test_so_is_what_is_no_file(path: str) -> None:
    with pytest.raises(SettingsError, match=r"^--config "):
        read_document(Path(path), "--config")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_scalars_are_texts_whatever_they_look_like(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    text = (
        "caption: no\r\ntime: 1:30\r\nlr: 5e-4\r\nnone: null\r\nquoted: 'null'\r\nday: 2026-01-02\n"
        "list: [1, ~]\nset: {a: 0.10, b: off}\npath: ~/ärger.png\n"
    )

    said = read_document(write(text.encode(encoding)), "--config")

    assert said == {
        "caption": "no", "time": "1:30", "lr": "5e-4", "none": None, "quoted": "null",
        "day": "2026-01-02", "list": ["1", None], "set": {"a": "0.10", "b": "off"},
        "path": "/home/me/ärger.png",
    }  # fmt: skip
    assert said.place("list") == "pair.yaml, line 7: "


def test_json_is_taken_as_it_is() -> None:
    said = read_document(write('{\n\t"a": "\\ud83d\\ude00",\n\t"b": [1.0, true]\n}'), "--config")

    assert said == {"a": "😀", "b": ["1.0", "true"]}


def test_what_is_written_reads_the_same_and_is_known_again() -> None:
    content = {"caption": "no: # 'x'", "lr": 1e-05, "on": True, "prompt": ["ä" * 99, "null", "5"]}

    text = render_document(content, "ours")

    assert text.startswith("# ours\ncaption: ")
    assert read_document(write(text), "--config") == {
        "caption": "no: # 'x'", "lr": "1.0e-05", "on": "true", "prompt": ["ä" * 99, "null", "5"],
    }  # fmt: skip
    assert is_rendered(text, "ours")
    assert is_rendered(text.replace("1.0e-05", "0.5"), "ours")
    for changed in (text + "# mine\n", text.replace("ours", "yours"), "# ours\n- a: [", "# ours\n"):
        assert not is_rendered(changed, "ours")
