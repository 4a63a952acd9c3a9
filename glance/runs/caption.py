"""Find the caption, and say whether it is fit to train on, or means something else: a file, say."""

import json
import re
import shlex
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from glance.core.encoding import ForeignText, decode_text, excerpt, misread
from glance.core.errors import Findings, Problem, quoted, reason_of, shown
from glance.core.files import is_readable, open_file
from glance.core.kinds import fetching, recognise

MAX_CAPTION_BYTES = 64 * 1024
_SUFFIXES = (".txt", ".caption")
_OTHER_SUFFIXES = (
    *(".txt.txt", ".caption.txt", ".txt.caption", "_caption.txt", "-caption.txt"),
    *(".text", ".captions", ".cap", ".tags", ".md"),
)
_PICTURES: Final = r"\.(?:png|jpe?g|webp|bmp|gif|tiff?|heic|heif|avif)"
_FILE_NAME: Final = re.compile(
    rf"@?\S+(?:\.(?:txt|caption|text|md|tags|jsonl?|csv|tsv|ya?ml)|{_PICTURES}|/)"
    r"|@?(?:~|\.{1,2})?/\S+",
    re.IGNORECASE,
)
_ADDRESS: Final = re.compile(r"(?:https?|file|s3|gs|hf)://\S+", re.IGNORECASE)
_IN_WORDS: Final = "write what the image shows, in words"
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
            "begins with an image's name, as a list of many captions does",
            "leave the text of this image alone in it",
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


def find_caption(image: Path, found: Findings) -> Path | None:
    """Return the text file beside `image`; None, and a refusal, when there is none."""
    if image.name in ("", ".."):  # already refused as a directory, and has no basename
        return None
    first, second = (image.with_name(image.stem + suffix) for suffix in _SUFFIXES)
    there = [path for path in (first, second) if path != image and _exists(path)]
    if not there:
        _refuse_missing(image, first, second, found)
        return None
    if len(there) > 1:
        found.warn(
            f"both {shown(first)} and {shown(second)} exist: {shown(first)} is used",
            f'--caption "$(cat {quoted(second)})" takes the other one',
        )
    return there[0]


def name_for_text(option: str, text: str, *, takes_file: bool) -> Problem | None:
    """Return what is wrong with an option's text that is a file's name; None if it is none.

    `takes_file`: the command has --prompt-file, for a file of many.
    """
    name = text.strip()
    path = Path(name.removeprefix("@"))  # curl's way to name a file
    try:
        path = path.expanduser()
        exists = path.is_file()
    except (OSError, RuntimeError):  # too long for a name, or the home folder of an unknown user
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


def examine_caption(
    caption: str | None, file: Path | None, image: Path, found: Findings
) -> str | None:
    """Return the text, stripped: `caption`, or what `file` holds. None when it is unfit."""
    if caption is not None:
        return _judge(caption, "--caption", 'describe the image: --caption "..."', found)
    if file is None:
        return None
    what = f"caption file {shown(file)}"
    remedy = f'write one line of text to {shown(file)}, or pass --caption "..."'
    if not is_readable(file, what, found, remedy='put a text there, or pass --caption "..."'):
        return None
    try:
        with open_file(file) as stream:
            data = stream.read(MAX_CAPTION_BYTES + 1)
    except OSError as error:
        found.refuse(f"{what} cannot be read: {reason_of(error)}", remedy)
        return None
    kind = recognise(data)
    if kind is not None:
        found.refuse(f"{what} is {kind}", fetching(kind) or remedy)
        return None
    if len(data) > MAX_CAPTION_BYTES:
        found.refuse(f"{what} is larger than 64 KiB, which no caption is", remedy)
        return None
    text = decode_text(data)
    if isinstance(text, ForeignText):
        _refuse_foreign(text, file, image, what, found)
        return None
    return _judge(text, what, remedy, found)


def estimate_tokens(text: str) -> float:
    """Return about how many tokens a text is: 1.3 a word, or one for four characters."""
    return max(1.3 * len(text.split()), len(text) / 4)


def check_length(text: str, text_tokens: int, found: Findings) -> None:
    """Warn of a text that is longer than what the model reads."""
    estimate = estimate_tokens(text)
    if estimate > text_tokens:
        found.warn(
            f"the caption has about {estimate:.0f} tokens, but the model reads {text_tokens}: "
            "what lies beyond is cut",
            "shorten it, or put what matters first",
        )


def _refuse_foreign(text: ForeignText, file: Path, image: Path, what: str, found: Findings) -> None:
    """Refuse what is not UTF-8, with a command that writes it anew and checks that."""
    message = text.explain(what)
    if not text.readings:
        found.refuse(message, "save it as UTF-8 text")
        return
    command, target = text.conversion(file)
    check = f'glance check {quoted(image)} --caption "$(cat {quoted(target)})"'
    found.refuse(message, f"{command} && {check}")


def _refuse_missing(image: Path, first: Path, second: Path, found: Findings) -> None:
    message = f"no caption for {shown(image)}: neither {shown(first)} nor {shown(second)} exists"
    near = _near_misses(image)
    if not near:
        found.refuse(message, f'write one line of text to {shown(first)}, or pass --caption "..."')
        return
    names = " and ".join(shown(path.name) for path in near[:3])
    found.refuse(f"{message}; is {names} meant?", f"cp -n {quoted(near[0])} {quoted(first)}")


def _near_misses(image: Path) -> list[Path]:
    """Return the files beside `image` that are named nearly as its caption is, likeliest first."""
    stem, name = _folded(image.stem), _folded(image.name)
    wanted = [f"{begin}{end}" for begin in (stem, name) for end in _SUFFIXES]
    wanted += [f"{stem}{end}" for end in _OTHER_SUFFIXES]
    try:
        beside = {path: _folded(path.name) for path in image.parent.iterdir()}
        near = [path for path, folded in beside.items() if folded in wanted and path.is_file()]
    except OSError:
        return []
    return sorted(near, key=lambda path: (wanted.index(beside[path]), path.name))


def _folded(name: str) -> str:
    """Return a name without what people and file systems differ in: case, accents' form, spaces."""
    return unicodedata.normalize("NFC", name).casefold().replace(" ", "")


def _judge(text: str, what: str, remedy: str, found: Findings) -> str | None:
    """Return the text, stripped; None when it is no description of a picture."""
    cleaned = _clean(text, what, remedy, found)
    refusals = [] if cleaned is None else list(_refusals(cleaned, what))
    found.problems.extend(refusals)
    if cleaned is None or refusals:
        return None
    found.warnings.extend(_warnings(cleaned, what))
    return cleaned


def _clean(text: str, what: str, remedy: str, found: Findings) -> str | None:
    lines = re.sub("\r\n|[\r\u2028\u2029]", "\n", text).split("\n")
    for number, line in enumerate(lines, start=1):
        # Cs: lone surrogates, which is how bytes that are not UTF-8 arrive on the command line.
        bad = next((c for c in line if c != "\t" and unicodedata.category(c) in ("Cc", "Cs")), None)
        if bad is not None:
            found.refuse(
                f"{what} holds a character that is no text (U+{ord(bad):04X}, line {number})",
                "leave it out; a caption is plain UTF-8 text",
            )
            return None
    cleaned = "\n".join(line.strip() for line in lines).strip()
    if not any(c.isprintable() and not c.isspace() for c in cleaned):
        found.refuse(f"{what} is empty", remedy)
        return None
    return cleaned


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # there, but out of reach: reading it will say why
        return True


def _refusals(text: str, what: str) -> Iterator[Problem]:
    kind = recognise(text.encode("utf-8", "surrogatepass"))
    if kind is not None:
        yield Problem(f"{what} is {kind}", fetching(kind) or _IN_WORDS)
    elif (document := _json_of(text)) is not None:
        said = _said_in(document)
        hint = f"--caption {shlex.quote(said)}" if said and len(said) < 500 else _IN_WORDS
        yield Problem(f"{what} is JSON: its brackets and quotes would be trained as text", hint)
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
