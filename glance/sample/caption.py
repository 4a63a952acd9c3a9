"""Find the caption, and say whether it is fit to train on."""

import re
import unicodedata
from pathlib import Path

from glance.sample.findings import Findings, is_readable, quoted, shown

MAX_CAPTION_BYTES = 64 * 1024


def find_caption(image: Path, found: Findings) -> Path | None:
    """Return the text file beside `image`; None, and a refusal, when there is none."""
    if image.name in ("", ".."):  # already refused as a directory, and has no basename
        return None
    first, second = (image.with_name(image.stem + suffix) for suffix in (".txt", ".caption"))
    there = [path for path in (first, second) if path != image and _exists(path)]
    if not there:
        found.refuse(
            f"no caption for {shown(image)}: neither {shown(first)} nor {shown(second)} exists",
            f'write one line of text to {shown(first)}, or pass --caption "..."',
        )
        return None
    if len(there) > 1:
        found.warn(
            f"both {shown(first)} and {shown(second)} exist: {shown(first)} is used",
            "delete the one that is not meant",
        )
    return there[0]


def examine_caption(caption: str | None, file: Path | None, found: Findings) -> str | None:
    """Return the text, stripped: `caption`, or what `file` holds. None when it is unfit."""
    if caption is not None:
        return _clean(caption, "--caption", 'describe the picture: --caption "..."', found)
    if file is None:
        return None
    what = f"caption file {shown(file)}"
    remedy = f'write one line of text to {shown(file)}, or pass --caption "..."'
    if not is_readable(file, what, found, remedy='put a text there, or pass --caption "..."'):
        return None
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_CAPTION_BYTES + 1)
    except OSError as error:
        found.refuse(f"{what} cannot be read: {error.strerror}", remedy)
        return None
    if len(data) > MAX_CAPTION_BYTES:
        found.refuse(f"{what} is larger than 64 KiB, which no caption is", remedy)
        return None
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin1"
        old, new = quoted(file), quoted(file.with_name(f"{file.name}.utf8"))
        found.refuse(
            f"{what} is not UTF-8 (byte {error.start})",
            f"iconv -f {encoding} -t utf-8 {old} > {new} && mv {new} {old}",
        )
        return None
    return _clean(text, what, remedy, found)


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
                "remove it; a caption is plain UTF-8 text",
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
