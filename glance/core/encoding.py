"""Text that is not UTF-8: what it is, or may be, and the command that makes UTF-8 of it.

An encoding is named only where the bytes prove it. Anything else is a guess, shown as what the
text would read as. The command writes a new file and never replaces one.
"""

import re
import unicodedata
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from glance.core.errors import quoted, shown
from glance.core.files import unused_path

_MARKS: Final = (  # UTF-32's begins like UTF-16's
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
    (b"\x84\x31\x95\x33", "GB18030"),
)
_UTF8_MARK: Final = b"\xef\xbb\xbf"

# By iconv's names, which Python knows as well; of those that read alike, the more usual one first.
_GUESSES: Final = (
    *("GB18030", "BIG5", "CP932", "EUC-JP", "CP949"),
    *("CP1252", "CP1251", "KOI8-R", "CP1250", "CP1253", "CP1254", "CP1255", "CP1256", "CP1257"),
    *("CP874", "MACINTOSH", "CP850", "CP866", "UTF-16LE", "UTF-16BE"),
)
_MOST_READINGS: Final = 4
_STRANGE: Final = 0.5

# Ideographs and syllables in use have lead bytes below this in the older, smaller sets.
_USUAL: Final = {
    **dict.fromkeys(("GB18030", "UTF-16LE", "UTF-16BE"), ("gb2312", 0xD8)),
    "BIG5": ("big5", 0xC7),
    "CP932": ("cp932", 0x98),
    "EUC-JP": ("euc_jp", 0xD0),
    "CP949": ("euc_kr", 0xC9),
}
_ROW: Final = re.compile(r"[^\0-\x7f]{3}")
_CONTROL: Final = re.compile(r"[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_MANY_ZEROS: Final = 0.5
_JUDGED: Final = 4000  # characters
_SHOWN: Final = 60  # likewise

# Quotes, dashes, dots, euro and trade mark: the same bytes in every Windows code page of Europe,
# and control characters in ISO 8859.
_SMART: Final = re.compile(rb"[\x80\x85\x91-\x97\x99]")
_HIGH: Final = re.compile(rb"[\x80-\xff]")


@dataclass(frozen=True, slots=True)
class Reading:
    """What bytes read as in an encoding, by iconv's name."""

    encoding: str
    text: str


@dataclass(frozen=True, slots=True)
class ForeignText:
    """Bytes that are not UTF-8."""

    clause: str
    """What is known of them; it goes on where a sentence has named the file."""
    readings: tuple[Reading, ...]
    """One where the encoding is known, else the likeliest first; none: nothing reads well."""
    is_guess: bool = False
    is_damaged: bool = False
    """Whether there are bytes in it that are no text in its encoding."""

    def explain(self, what: str) -> str:
        """Return what is wrong with `what`; with what it would read as, where that is a guess."""
        if not (self.is_guess and self.readings):
            return f"{what} {self.clause}"
        read = ", ".join(f"as {one.encoding} {excerpt(one.text)}" for one in self.readings)
        return f"{what} {self.clause}; it reads {read}"

    def conversion(self, path: Path) -> tuple[str, Path]:
        """Return the command that writes a new file from `path`, in UTF-8; and the new file."""
        target = unused_path(path.with_name(f"{path.stem}.utf8{path.suffix}"))
        encoding = self.readings[0].encoding
        flags = f"-c -f {encoding}" if self.is_damaged else f"-f {encoding}"
        iconv = f"iconv {flags} -t UTF-8 {quoted(path)} > {quoted(target)}"
        if self.is_damaged:  # -c leaves it out, and yet may end with a failure
            iconv += " || true"
        return f"(set -C; {iconv})", target  # -C: whatever is there by then stays as it is


def decode_text(data: bytes) -> str | ForeignText:
    """Return UTF-8 text, without its byte mark; or what else it is."""
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        return _by_mark(data) or _by_zeros(data) or _by_bytes(data, error.start)
    if "\0" in text:  # letters of UTF-16 without a mark may be UTF-8 as well, with zeros between
        is_text = not _CONTROL.search(text.replace("\0", ""))
        return _by_zeros(data, _MANY_ZEROS if is_text else 0.0) or text
    return text


def excerpt(text: str) -> str:
    """Return the beginning of a text, on one line, quoted."""
    line = " ".join(text.split())
    return shown(repr(line if len(line) <= _SHOWN else line[:_SHOWN].rstrip() + "..."))


def guess(data: bytes) -> tuple[Reading, ...]:
    """Return what bytes of unknown encoding may read as, the likeliest first."""
    found: dict[str, tuple[float, str]] = {}
    for encoding in _GUESSES:
        text = _decoded(data, encoding)
        if text is not None and not _CONTROL.search(text) and text not in found:
            found[text] = (_strangeness(text[:_JUDGED], encoding), encoding)
    ranked = sorted(found.items(), key=lambda item: item[1][0])  # stable: the list's order counts
    readings = [Reading(name, text) for text, (strange, name) in ranked if strange < _STRANGE]
    return tuple(readings[:_MOST_READINGS])


def misread(text: str) -> Reading | None:
    """Return what a text was before it was read in a wrong encoding and saved as UTF-8.

    None when it reads well as it is. It does not where its Latin letters are the bytes of UTF-8,
    or where they are most of the text, and no words of any language.
    """
    for codec in ("cp1252", "latin-1"):
        try:
            data = text.encode(codec)
            return None if text.isascii() else Reading("UTF-8", data.decode("utf-8"))
        except UnicodeEncodeError:
            continue
        except UnicodeDecodeError:
            break
    else:
        return None
    letters = [c for c in text if not c.isspace()]
    if 2 * sum(c > "\x7f" for c in letters) <= len(letters) or len(letters) < 4:
        return None
    readings = guess(data) if _strangeness(text[:_JUDGED], "CP1252") > _STRANGE / 2 else ()
    return readings[0] if readings and readings[0].text != text else None


def _by_mark(data: bytes) -> ForeignText | None:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            text = _decoded(data, encoding)
            if text is None:
                clause = f"is {encoding} by its byte mark, and damaged or cut short"
                return ForeignText(clause, ())
            return _known(encoding, text.removeprefix("\ufeff"), "byte mark")
    return None


def _by_zeros(data: bytes, least: float = 0.0) -> ForeignText | None:
    """Recognise UTF-32 and UTF-16 without a mark: the upper bytes of letters and spaces are zero.

    `least` is the share of them that is not enough.
    """
    for encoding, width, zeros in (
        ("UTF-32LE", 4, (2, 3)),
        ("UTF-32BE", 4, (0, 1)),
        ("UTF-16LE", 2, (1,)),
        ("UTF-16BE", 2, (0,)),
    ):
        shares = [data[place::width].count(0) / max(1, len(data) // width) for place in zeros]
        text = _decoded(data, encoding) if min(shares) > least else None
        if text is not None and not _CONTROL.search(text):
            return _known(encoding, text, "zero bytes")
    return None


def _by_bytes(data: bytes, position: int) -> ForeignText:
    if _is_smart(data):
        return _known("CP1252", data.decode("cp1252"), "quotes, dashes or dots")
    damaged = data.decode("utf-8", "replace").removeprefix("\ufeff")
    letters = sum(c > "\x7f" and c != "\ufffd" for c in damaged)
    if data.startswith(_UTF8_MARK) or letters > 2 * damaged.count("\ufffd"):
        rest = damaged.replace("\ufffd", "")
        clause = f"is damaged UTF-8 (byte {position}); without the damage it reads {excerpt(rest)}"
        return ForeignText(clause, (Reading("UTF-8", rest),), is_damaged=True)
    clause = f"is not UTF-8 (byte {position}), and does not say what it is"
    return ForeignText(clause, guess(data), is_guess=True)


def _known(encoding: str, text: str, proof: str) -> ForeignText:
    clause = f"is {encoding} by its {proof}, not UTF-8"
    return ForeignText(clause, (Reading(encoding, text),))


def _is_smart(data: bytes) -> bool:
    """Whether all that is not ASCII is typographic, each byte for itself between ASCII."""
    places = [match.start() for match in _HIGH.finditer(data)]
    alone = all(after - before > 1 for before, after in pairwise(places))
    return alone and 5 * len(places) < len(data) and all(map(_SMART.fullmatch, _HIGH.findall(data)))


def _decoded(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return None


def _strangeness(text: str, encoding: str) -> float:
    """Return about what share of the characters beyond ASCII speaks against an encoding.

    Rare characters do, words of several scripts, capitals within a word, and three accented Latin
    letters in a row.
    """
    foreign = [c for c in text if c > "\x7f"]
    against = sum(_is_odd(c, encoding) for c in foreign)
    letters = "".join(c if unicodedata.category(c)[0] in "LM" else " " for c in text)
    for word in letters.split():
        scripts = set(map(_script, word))
        against += len(scripts) > 1
        against += len(_ROW.findall(word)) if scripts == {"LATIN"} else 0
        against += sum(c.isupper() for c in word[1:] if c > "\x7f")
    return against / max(1, len(foreign))


def _is_odd(character: str, encoding: str) -> bool:
    """Whether a character beyond ASCII is rare in the texts that use its encoding."""
    kind, script = unicodedata.category(character)[0], _script(character)
    if kind in "SNC" or (kind in "PZ" and character < "\u2000" and character not in "¡¿«»"):
        return True
    if script not in ("EAST", "HANGUL"):
        return script == "HALFWIDTH"
    codec, limit = _USUAL.get(encoding, ("ascii", 0))
    try:
        return character.encode(codec)[0] >= limit
    except UnicodeEncodeError:
        return True


def _script(character: str) -> str:
    """Return the first word of a character's name; one word for what is mixed in the east."""
    first = unicodedata.name(character, "").split(" ")[0]
    return "EAST" if first in ("CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA") else first
