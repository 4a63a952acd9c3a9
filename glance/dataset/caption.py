"""Find the caption, and say whether it is fit to train on."""

import re
import unicodedata
from pathlib import Path

from glance.core.encoding import ForeignText, decode_text
from glance.core.files import open_file
from glance.core.findings import Findings, is_readable, quoted, shown
from glance.dataset.kinds import fetching, recognise
from glance.dataset.mistaken import find_mistakes

MAX_CAPTION_BYTES = 64 * 1024
_SUFFIXES = (".txt", ".caption")
_OTHER_SUFFIXES = (
    *(".txt.txt", ".caption.txt", ".txt.caption", "_caption.txt", "-caption.txt"),
    *(".text", ".captions", ".cap", ".tags", ".md"),
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


def examine_caption(
    caption: str | None, file: Path | None, image: Path, found: Findings
) -> str | None:
    """Return the text, stripped: `caption`, or what `file` holds. None when it is unfit."""
    if caption is not None:
        return _judge(caption, "--caption", 'describe the picture: --caption "..."', found)
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
        found.refuse(f"{what} cannot be read: {error.strerror}", remedy)
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


def _judge(text: str, what: str, remedy: str, found: Findings) -> str | None:
    """Return the text, stripped; None when it is no description of a picture."""
    cleaned = _clean(text, what, remedy, found)
    if cleaned is None:
        return None
    mistakes = find_mistakes(cleaned, what)
    found.problems.extend(mistakes.refusals)
    found.warnings.extend(mistakes.warnings)
    return None if mistakes.refusals else cleaned


def _clean(text: str, what: str, remedy: str, found: Findings) -> str | None:
    lines = re.sub("\r\n|[\r\u2028\u2029]", "\n", text).split("\n")
    for number, line in enumerate(lines, start=1):
        # Cs: lone surrogates, which is how bytes that are not UTF-8 arrive on the command line.
        bad = next(
            (c for c in line if c != "\t" and unicodedata.category(c) in ("Cc", "Cs")),
            None,
        )
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
