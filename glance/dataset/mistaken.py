"""Words that somebody meant otherwise: a file's name for its text, a document for a caption."""

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from glance.core.encoding import excerpt, misread
from glance.core.errors import Problem
from glance.core.findings import quoted, shown
from glance.dataset.kinds import fetching, recognise

_PICTURES: Final = r"\.(?:png|jpe?g|webp|bmp|gif|tiff?|heic|heif|avif)"
_FILE_NAME: Final = re.compile(
    rf"@?\S+(?:\.(?:txt|caption|text|md|tags|jsonl?|csv|tsv|ya?ml)|{_PICTURES}|/)"
    r"|@?(?:~|\.{1,2})?/\S+",
    re.IGNORECASE,
)
_ADDRESS: Final = re.compile(r"(?:https?|file|s3|gs|hf)://\S+", re.IGNORECASE)
_IN_WORDS: Final = "write what the picture shows, in words"

# What is trained as words and was hardly meant so. Each is a habit of another program, or a script
# that went wrong; none is so sure that the text is refused.
_SUSPECTS: Final = tuple(
    (re.compile(pattern, re.IGNORECASE | re.MULTILINE), words, remedy)
    for pattern, words, remedy in (
        (
            r"\A[<\[({]*(?:(?:an? |your )?caption(?: here)?s?|prompt|to ?do|tbd|n/?a|none|null|nan"
            r"|undefined|true|false|untitled|unknown|empty|text|test|description|image|picture|photo"
            r"|lorem ipsum.*|(?:img|dsc[nf]?|pxl|p|screenshot)?[\W\d_]*)[>\])}]*[.!?]*\Z",
            "describes nothing",
            _IN_WORDS,
        ),
        (
            r"\A(?:i['\u2019]?m (?:sorry|unable)|sorry, i |i can(?:not|['\u2019]?t) |as an ai\b"
            r"|traceback \(most recent|error: |(?:40[34]|429|50[0234])[: ]+(?:for|not|too|in))",
            "begins like another program's message",
            _IN_WORDS,
        ),
        (
            rf"\A\S+{_PICTURES}[\"']?\s*[\t,;|:]",
            "begins with a picture's name, as a list of many captions does",
            "leave the text of this picture alone in it",
        ),
        (
            r"^negative prompt:|\bsteps: \d+, sampler: ",
            "holds a generator's settings",
            "leave the prompt alone in it",
        ),
        (
            r"</?[a-z][a-z0-9]*(?:\s[^<>]*)?/?>|&(?:amp|lt|gt|quot|nbsp|#\d+);",
            "holds HTML",
            _IN_WORDS,
        ),
        (
            r"(?<!\S)--(?:[a-z]|ar|fs|ss|cn|no|niji|style|seed|steps|width|height|sampler|prompt)(?!\S)",
            "holds another program's option",
            "leave it out: it would be trained as words",
        ),
        (
            r"\[(?:trigger|name|filewords|caption|prompt)\]|\{(?:trigger|name|caption|prompt|token)\}"
            r"|__[\w/-]+__|\$\{\w+\}|\$[A-Z_]{3,}\b|%[a-z_]+%|<(?:lora|lyco|hypernet|embedding):[^>]*>",
            "holds what other programs fill in",
            "write the words themselves: nothing is filled in here",
        ),
        (r"\A(['\"])(?:(?!\1).)+\1\Z", "is in quotation marks, trained as well", "leave them out"),
        ("\ufffd", "holds U+FFFD, where letters were lost", "write them again"),
    )
)


@dataclass(frozen=True, slots=True)
class Mistakes:
    """What a text seems to be, other than a description: sure, or likely."""

    refusals: tuple[Problem, ...]
    warnings: tuple[Problem, ...]


def name_for_text(option: str, text: str, *, takes_file: bool) -> Problem | None:
    """Return what is wrong with an option's text that is a file's name; None if it is none.

    `takes_file`: the command has --prompt-file, for a file of many.
    """
    name = text.strip()
    path = Path(name.removeprefix("@"))  # curl's way to name a file
    try:
        path = path.expanduser()
        exists = path.is_file()
    except (OSError, RuntimeError):  # too long for a name, or the home of nobody
        exists = False
    if not exists and not _FILE_NAME.fullmatch(name):
        return None
    problem = f"{option} {shown(repr(text))} is a file's name, and would be taken for the text"
    if not exists or re.search(f"{_PICTURES}$", name, re.IGNORECASE):
        end = "" if exists else "; there is no such file"
        return Problem(f"{problem}{end}", f'give the text itself: {option} "..."')
    if takes_file and option == "--prompt":
        return Problem(problem, f"--prompt-file {quoted(path)}")
    return Problem(problem, f'{option} "$(cat {quoted(path)})"')


def find_mistakes(text: str, what: str) -> Mistakes:
    """Return what speaks against a text as the description of a picture; `what` names it."""
    refusals = tuple(_refusals(text, what))
    return Mistakes(refusals, () if refusals else tuple(_warnings(text, what)))


def _refusals(text: str, what: str) -> Iterator[Problem]:
    kind = recognise(text.encode("utf-8", "surrogatepass"))
    if kind is not None:
        yield Problem(f"{what} is {kind}", fetching(kind) or _IN_WORDS)
    elif (document := _json_of(text)) is not None:
        said = _said_in(document)
        hint = f"--caption {shlex.quote(said)}" if said and len(said) < 500 else _IN_WORDS
        yield Problem(f"{what} is JSON, whose signs would be trained as words", hint)
    elif not any(c.isalnum() for c in text):
        yield Problem(f"{what} holds no word: {excerpt(text)}", _IN_WORDS)
    elif _FILE_NAME.fullmatch(text) or _ADDRESS.fullmatch(text):
        yield Problem(f"{what} holds only a file's name: {excerpt(text)}", _IN_WORDS)


def _warnings(text: str, what: str) -> Iterator[Problem]:
    for pattern, words, remedy in _SUSPECTS:
        if match := pattern.search(text):
            yield Problem(f"{what} {words}: {excerpt(match[0])}", remedy)
    if before := misread(text):
        yield Problem(
            f"{what} reads like text of another encoding: {excerpt(text)} was perhaps "
            f"{excerpt(before.text)}",
            "look at the file that it was made from",
        )


def _json_of(text: str) -> Any:
    """Return the object or list that a text is, or its first line; None for other texts."""
    if not text.startswith(("{", "[")):
        return None
    for part in (text, text.splitlines()[0]):
        try:
            return json.loads(part)
        except (ValueError, RecursionError):
            continue
    return {} if re.match(r"[{\[]\s*[\"{\[]", text) else None  # damaged, but nothing else


def _said_in(document: Any) -> str | None:
    """Return the text that a JSON document says of a picture."""
    if isinstance(document, list) and len(document) == 1:
        document = document[0]
    if isinstance(document, str):
        return document.strip()
    if not isinstance(document, Mapping):
        return None
    texts = {key.casefold(): value for key, value in document.items() if isinstance(value, str)}
    named = [texts[key] for key in ("caption", "text", "prompt", "description") if key in texts]
    only = list(texts.values()) if len(texts) == 1 else []
    return next((said.strip() for said in (*named, *only) if said.strip()), None)
