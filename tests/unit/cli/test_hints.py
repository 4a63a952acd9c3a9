"""What glance prints is pasted into a shell: it replaces and removes nothing that somebody has."""

import ast
import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from glance.core.errors import quoted

PACKAGE = Path(__file__).parents[3] / "glance"

_COMMAND = r"(?:^|[`&|;($]\s*|\b(?:then|or|with|by) )"
HARMFUL = re.compile(
    rf"{_COMMAND}(?:sudo |mv|rm|rmdir|dd|tee|truncate|shred|ln|sed -i|cp(?! -n)|git "
    r"(?:checkout|reset|clean|push)|pip uninstall|chmod (?!u\+r)|chown|curl|wget)\s+[{'\"/.\w-]"
    r"|\b(?:remove|delete|erase|overwrite) (?:it|that|them|those|the (?:file|folder|run))\b"
    r"|again with --(?:restart|force)|(?:: |or )--(?:restart|force)$"
)
REDIRECTION = re.compile(r"[^\s=<>-] >{1,2} ?(?!=|\d)\S")


def nodes() -> Iterator[tuple[str, ast.AST]]:
    """Every node of the package's code but docstrings and parts of f-strings, with its place."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if "inside" in path.parts:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        silent: set[int] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                silent.add(id(node.value))
            elif isinstance(node, ast.JoinedStr):
                silent.update(map(id, node.values))
        for node in ast.walk(tree):
            if id(node) not in silent:
                yield f"{path.name}:{getattr(node, 'lineno', 0)}", node


def printed() -> Iterator[tuple[str, str]]:
    """Every text; what is filled in stands as {}."""
    for where, node in nodes():
        if isinstance(node, ast.JoinedStr):
            parts = (p.value if isinstance(p, ast.Constant) else "{}" for p in node.values)
            yield where, "".join(map(str, parts))
        elif isinstance(node, ast.Constant):
            yield where, str(node.value)


def test_no_text_advises_to_replace_or_remove_anything() -> None:
    texts = list(printed())

    assert [f"{where}: {text}" for where, text in texts if HARMFUL.search(text)] == []
    redirecting = [(where.split(":")[0], text) for where, text in texts if REDIRECTION.search(text)]
    # stands between (set -C; and ); its test pastes it
    assert redirecting == [("encoding.py", "iconv {} -t UTF-8 {} > {}")]


@pytest.mark.parametrize(
    "hint",
    [
        *("iconv -f latin1 a > b && mv b a", "rm -r {}", "cp {} {}", "remove it, then go on"),
        *("run the same again with --restart", "give another, or --force", "sed -i s/a/b/ {}"),
    ],
)
def test_what_would_be_harmful_is_recognised(hint: str) -> None:
    assert HARMFUL.search(hint)


def test_a_path_goes_into_a_command_by_way_of_a_function_that_quotes_it() -> None:
    raw: list[str] = []
    for where, node in nodes():
        values = node.values if isinstance(node, ast.JoinedStr) else []
        for before, value in pairwise(values):
            words = before.value if isinstance(before, ast.Constant) else ""
            flag = re.search(r"--(?:run|image|prompt-file|schedule|model|output) $", str(words))
            if flag is None or not isinstance(value, ast.FormattedValue):
                continue
            names = {n.id for n in ast.walk(value) if isinstance(n, ast.Name)}
            attributes = {n.attr for n in ast.walk(value) if isinstance(n, ast.Attribute)}
            if attributes & {"path", "parent"} and not names & {"quote", "quoted", "join"}:
                raw.append(f"{where}: {ast.unparse(value)}")

    assert raw == []


def test_quoting_survives_any_name() -> None:
    for name in ("a b", "it's", 'a"b', "$(touch x)", "-n", "a;b", "`x`", "ü", "*"):
        assert shlex.split(quoted(Path(name))) == [f"./{name}" if name == "-n" else name]
