"""What glance prints is pasted into a shell: it replaces and removes nothing that somebody has."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[3] / "glance"

_COMMAND = r"(?:^|[`&|;($]\s*|\b(?:then|or|with|by) )"
HARMFUL = re.compile(
    rf"{_COMMAND}(?:sudo |mv|rm|rmdir|dd|tee|truncate|shred|ln|sed -i|cp(?! -n)|git "
    r"(?:checkout|reset|clean|push)|pip uninstall|chmod (?!u\+r)|chown|curl|wget)\s+[{'\"/.\w-]"
    r"|\b(?:remove|delete|erase|overwrite) (?:it|that|them|those|the (?:file|folder|run))\b"
    r"|again with --(?:restart|force)|(?:: |or )--(?:restart|force)$",
)
REDIRECTION = re.compile(r"[^\s=<>-] >{1,2} ?(?!=|\d)\S")


def printed() -> Iterator[tuple[str, str]]:
    """Every text in the package but docstrings; what is filled in stands as {}."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if "inside" in path.parts:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        silent = {
            id(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        silent |= {  # parts of an f-string
            id(part)
            for node in ast.walk(tree)
            if isinstance(node, ast.JoinedStr)
            for part in node.values
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = (p.value if isinstance(p, ast.Constant) else "{}" for p in node.values)
                yield f"{path.name}:{node.lineno}", "".join(map(str, parts))
            elif isinstance(node, ast.Constant) and id(node) not in silent:
                yield f"{path.name}:{node.lineno}", str(node.value)


def test_no_text_advises_to_replace_or_remove_anything() -> None:
    harmful = [f"{where}: {text}" for where, text in printed() if HARMFUL.search(text)]

    assert harmful == []


def test_the_only_redirection_cannot_replace_a_file() -> None:
    found = [(where, text) for where, text in printed() if REDIRECTION.search(text)]

    assert [text for where, text in found if where.startswith("encoding.py")] == [
        "iconv {} -t UTF-8 {} > {}"  # stands between (set -C; and ); its test pastes it
    ]
    assert [pair for pair in found if not pair[0].startswith("encoding.py")] == []


@pytest.mark.parametrize(
    "hint",
    [
        *("iconv -f latin1 a > b && mv b a", "rm -r {}", "cp {} {}", "remove it, then go on"),
        *("run the same again with --restart", "give another, or --force", "sed -i s/a/b/ {}"),
    ],
)
def test_what_would_be_harmful_is_recognised(hint: str) -> None:
    assert HARMFUL.search(hint)


def test_paths_in_commands_are_quoted() -> None:
    """A path goes into a command by way of a function that quotes it."""
    quoting = {"quote", "quoted", "join"}
    raw: list[str] = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.JoinedStr):
                continue
            for before, value in zip(node.values, node.values[1:], strict=False):
                words = before.value if isinstance(before, ast.Constant) else ""
                flag = re.search(r"--(?:run|image|prompt-file|schedule|model|output) $", str(words))
                if flag is None or not isinstance(value, ast.FormattedValue):
                    continue
                names = {n.id for n in ast.walk(value) if isinstance(n, ast.Name)}
                attributes = {n.attr for n in ast.walk(value) if isinstance(n, ast.Attribute)}
                if attributes & {"path", "parent"} and not names & quoting:
                    raw.append(f"{path.name}:{node.lineno}: {ast.unparse(value)}")

    assert raw == []


def test_quoting_survives_any_name() -> None:
    from glance.core.errors import quoted

    for name in ("a b", "it's", 'a"b', "$(touch x)", "-n", "a;b", "`x`", "ü", "*"):
        assert shlex.split(quoted(Path(name))) == [f"./{name}" if name == "-n" else name]
