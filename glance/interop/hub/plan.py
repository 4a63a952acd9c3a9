"""`glance export hub`: what goes to the Hub, decided without any network. Sending: send.py."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final

from glance.core.errors import InputError, Problem, RunError
from glance.core.files import read_text
from glance.core.phase import Phase
from glance.core.pictures import DECODER_ERRORS
from glance.interop.export import Source
from glance.interop.hub.card import SAMPLE, Card, hub_base, render_card
from glance.interop.hub.licences import check_licence, resolve_licence
from glance.interop.hub.pictures import encode_png, find_gallery
from glance.models.lora.file import encode_header, hash_file, read_header
from glance.runs.lora import complete_metadata

CARD: Final = "README.md"
Content = bytes | Path | Phase
"""What a file holds; a phase stands for its LoRA, with all metadata that belong to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubRequest:
    """What the user typed, unchecked, and a run that is finished."""

    source: Source
    repo: str
    """`name`, of whoever sends, or `owner/name`."""
    extra: Mapping[str, bytes | Path] | None = None
    """Further files by their path in the repository; README.md and the LoRAs are ours."""
    licence: str | None = None
    """Of the LoRAs: the Hub's identifier. None: what the base model's imposes, if anything."""
    licence_name: str | None = None
    licence_link: str | None = None
    sample_licence: str | None = None
    """Of the sample; None: neither picture nor caption is sent or shown."""
    public: bool = False
    force: bool = False


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file as it is going to lie in the repository."""

    path: str
    content: Content
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HubPlan:
    """Everything that would be sent, and where to."""

    card: Card
    others: tuple[HubFile, ...]
    """All but the card, by path."""
    public: bool
    force: bool
    notes: tuple[str, ...]

    @property
    def repo(self) -> str:
        """`name` or `owner/name`."""
        return self.card.repo

    @property
    def card_text(self) -> str:
        """README.md. Without an owner in `repo` it says OWNER, and the sender's when it is sent."""
        return render_card(self.card)

    @property
    def files(self) -> tuple[HubFile, ...]:
        """Everything, the card first."""
        return (_measure(CARD, self.card_text.encode(), self.card.source), *self.others)

    def owned_by(self, owner: str) -> "HubPlan":
        """Return the plan for `owner`'s repository, if nobody's was named."""
        if "/" in self.repo:
            return self
        return replace(self, card=replace(self.card, repo=f"{owner}/{self.repo}"))

    def describe(self) -> str:
        """Return what `glance export hub --dry-run` prints: every file, and the card."""
        whom = "public" if self.public else "private"
        lines = [f"{file.bytes:>12,}  {file.sha256[:12]}  {file.path}" for file in self.files]
        return "\n".join([f"{self.repo} ({whom})", *lines, "", self.card_text])

    def to_json(self) -> dict[str, Any]:
        """Return what `glance export hub --dry-run --json` prints."""
        return {
            "repo": self.repo,
            "private": not self.public,
            "files": [
                {"path": file.path, "bytes": file.bytes, "sha256": file.sha256}
                for file in self.files
            ],
            "card": self.card_text,
            "notes": list(self.notes),
        }


def plan_hub(request: HubRequest) -> HubPlan:
    """Decide everything that would be sent. Reads the run; touches no network and no disk.

    The same run gives the same bytes wherever it lies.

    Raises InputError for a name that is none, SettingsError for a licence that is none, RunError
    when the sample is to be sent and is not there, or a file of the export cannot be read.
    """
    _check_repo(request.repo)
    source = request.source
    base = hub_base(source.manifest)
    licence = resolve_licence(
        base,
        licence=request.licence,
        name=request.licence_name,
        link=request.licence_link,
    )
    if request.sample_licence is not None:
        check_licence(request.sample_licence, flag="--sample-licence")
    gallery = find_gallery(source)
    caption = _read_caption(source)
    contents: dict[str, Content] = {
        **(request.extra or {}),
        **{f"{phase}.safetensors": phase for phase in Phase},
        **{one.path: one.content for row in gallery.rows for one in row.pictures},
        **(_sample(source, caption) if request.sample_licence is not None else {}),
    }
    contents.pop(CARD, None)
    _check_paths(contents)
    card = Card(
        repo=request.repo,
        source=source,
        gallery=gallery,
        files=tuple(sorted(contents)),
        caption=caption,
        sample_licence=request.sample_licence,
        licence=licence,
    )
    notes = (*source.notes, *gallery.notes, *_notes(card))
    return HubPlan(
        card=card,
        others=tuple(_measure(path, contents[path], source) for path in sorted(contents)),
        public=request.public,
        force=request.force,
        notes=notes,
    )


def _check_repo(repo: str) -> None:
    from huggingface_hub import utils
    from huggingface_hub.errors import HFValidationError

    rules: Any = utils  # it is documented, and not in its __all__
    try:
        rules.validate_repo_id(repo)
    except HFValidationError as exc:
        raise InputError(
            f"--repo {repo!r} is no name of the Hub",
            hint="letters, digits, dots and dashes: my-pair, or owner/my-pair",
        ) from exc


def _check_paths(contents: Mapping[str, Content]) -> None:
    odd = [
        path
        for path in contents
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts
    ]
    if odd:
        raise ValueError(f"paths that leave the repository: {odd}")


def _read_caption(source: Source) -> str | None:
    sample = source.manifest.sample
    if sample is None:
        return None
    try:
        text = read_text(_staged(source, sample.caption))
    except (OSError, UnicodeDecodeError):
        return None
    return text.strip() or None


def _sample(source: Source, caption: str | None) -> dict[str, Content]:
    """Return the pair that was trained on; raises RunError with all that is missing of it."""
    record = source.manifest.sample
    if record is None:
        raise RunError(
            "the run has no sample: the pair was imported", hint="leave out --sample-licence"
        )
    problems, png = [], b""
    try:
        png = encode_png(_staged(source, record.image))
    except DECODER_ERRORS:
        problems.append(Problem(f"the run's sample cannot be read: {record.image}", _REMEDY))
    if caption is None:
        problems.append(Problem(f"the run's caption cannot be read: {record.caption}", _REMEDY))
    if problems or caption is None:
        raise RunError(problems)
    return {f"{SAMPLE}.png": png, f"{SAMPLE}.txt": f"{caption}\n".encode()}


_REMEDY: Final = "put it back, or leave out --sample-licence: then it is not sent"


def _staged(source: Source, name: str) -> Path:
    """Return a file of the run; a manifest from elsewhere must not name one outside of it."""
    path = source.run.path / name
    if not path.resolve().is_relative_to(source.run.path.resolve()):
        raise FileNotFoundError(name)
    return path


def _measure(path: str, content: Content, source: Source) -> HubFile:
    try:
        match content:
            case Phase():
                size, sha256 = _measure_lora(source, content)
            case Path():
                size, sha256 = content.stat().st_size, hash_file(content)
            case _:
                size, sha256 = len(content), hashlib.sha256(content).hexdigest()
    except OSError as exc:
        raise RunError(
            f"{path} of the export cannot be read: {exc.strerror or exc}", hint="export again"
        ) from exc
    return HubFile(path, content, size, sha256)


def _measure_lora(source: Source, phase: Phase) -> tuple[int, str]:
    """Return size and hash of what Source.copy_lora writes, without writing it."""
    file = source.run.lora(phase)
    header = read_header(file)
    metadata = complete_metadata(source.manifest, phase, header)
    if metadata == header.metadata:
        return header.bytes, hash_file(file)
    entries = {key: entry.to_json() for key, entry in header.entries.items()}
    begin = encode_header(metadata, entries)
    digest = hashlib.sha256(begin)
    with file.open("rb") as stream:
        stream.seek(header.start)
        while block := stream.read(_BLOCK):
            digest.update(block)
    return len(begin) + header.bytes - header.start, digest.hexdigest()


_BLOCK: Final = 1 << 20  # bytes


def _notes(card: Card) -> Iterator[str]:
    if card.licence is None:
        yield "the card names no licence: say yours with --licence"
    if card.source.manifest.sample is not None:
        yield f"the LoRAs' headers call the pair {card.source.name}, after the sample's file"
    if card.sample_licence is None and card.source.manifest.sample is not None:
        yield "the sample and its caption are not sent: --sample-licence ID sends them"
    if hub_base(card.source.manifest) is None:
        yield "the base model is not on the Hub, so that the card cannot link it"
