"""`glance export hub`: both LoRAs in a repository on the Hub, with a model card read off the run.

A run is shared, so what lies in it is not trusted: links that lead out of it are not followed, and
images are sent as pixels alone; what people wrote goes through `_escape` or a YAML writer, so that
it can become no markup, no link and no key of the card.
"""

import json
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from shlex import quote
from typing import Any, Final

from glance.core.errors import InputError, Problem, RunError, SettingsError, SetupError, reason_of
from glance.core.events import EventSink, Noted, Warned
from glance.core.files import read_text
from glance.core.hub import is_offline
from glance.core.phase import Phase
from glance.core.pictures import DECODER_ERRORS, open_picture, to_rgb
from glance.evaluation.report import find_picture
from glance.evaluation.request import Variant
from glance.interop.card import (
    BINDING,
    HUB,
    PROMPT,
    CardRow,
    flatten,
    hub_base,
    sample_names,
    write_card,
)
from glance.interop.comfyui import plan_comfyui, render_comfyui
from glance.interop.diffusers import render_diffusers
from glance.interop.export import Exported, Source, list_files, whole_folder
from glance.models.lora.file import hash_file
from glance.runs.manifest import SampleRecord
from glance.sampling.provenance import FORMATS, read_record

MOST_ROWS: Final = 6  # a card is looked at, not leafed through
_CARD: Final = "README.md"
_FOLDERS: Final = ("comfyui", "pictures", "sample")
"""Of the repository; they are an export's alone, and what an earlier one left in them goes."""
_LICENSE: Final = re.compile(r"[a-z0-9][a-z0-9.+-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubRequest:
    """What the user typed, unchecked, and a run that is finished."""

    source: Source
    repo: str
    """`name`, of whoever sends, or `owner/name`."""
    license: str | None = None
    """Of the LoRAs: the Hub's identifier. None: what the base model's imposes, if anything."""
    sample_license: str | None = None
    """Of the sample; None: neither image nor caption is sent or shown."""
    public: bool = False
    force: bool = False


@dataclass(frozen=True, slots=True)
class HubPlan:
    """Everything that would be sent, and where to."""

    request: HubRequest
    contents: Mapping[str, bytes | Phase]
    """All but the card, by path; a phase stands for its LoRA, with all metadata of it."""
    notes: tuple[str, ...]
    rows: Sequence[CardRow]
    verdict: str | None
    """What was measured of the pair, in a sentence."""
    captions: Sequence[str | None]
    """Of each sample; None: it cannot be read."""

    @property
    def card(self) -> str:
        """README.md; without an owner in the repository's name it says OWNER."""
        repo = self.request.repo
        return write_card(self, repo if "/" in repo else f"OWNER/{repo}")

    def write(self, folder: Path, *, repo: str | None = None) -> list[str]:
        """Write the repository into `folder` and return its paths, the card first.

        `repo` is its name with an owner. Raises OSError.
        """
        for name, content in self.contents.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Phase):
                self.request.source.copy_lora(content, path)
            else:
                path.write_bytes(content)
        card = self.card if repo is None else write_card(self, repo)
        (folder / _CARD).write_text(card, encoding="utf-8")
        return [_CARD, *sorted(self.contents)]

    def to_json(self) -> dict[str, Any]:
        """Return what `glance export hub --dry-run --json` prints; raises SetupError."""
        with _temporary() as folder:
            listed = []
            for name in self.write(folder):
                size, digest = (folder / name).stat().st_size, hash_file(folder / name)
                listed.append({"path": name, "bytes": size, "sha256": digest})
        return {
            "repo": self.request.repo,
            "private": not self.request.public,
            "files": listed,
            "card": self.card,
            "notes": list(self.notes),
        }


def plan_hub(request: HubRequest) -> HubPlan:
    """Decide everything that would be sent. Reads the run; touches no network and no disk.

    The same run gives the same bytes wherever it lies. Raises InputError for a name that is none,
    SettingsError for a license that is none, RunError when the sample is to be sent and is gone.
    """
    _check_names(request)
    source, notes = request.source, list(request.source.notes)
    contents: dict[str, bytes | Phase] = {}
    try:
        contents |= render_diffusers(source)
    except InputError as exc:
        notes.append(f"no script for diffusers: {exc.problems[0].message}")
    try:
        workflow = replace(plan_comfyui(source, prompt=PROMPT), withholds_reference=True)
        files = render_comfyui(workflow)
        contents |= {f"comfyui/{name}": content for name, content in files.items()}
    except InputError as exc:
        notes.append(f"no workflow for ComfyUI: {exc.problems[0].message}")
    contents.pop(_CARD, None)
    rows, images, sentence = _find_images(source)
    contents |= {**{f"{phase}.safetensors": phase for phase in Phase}, **images}
    captions = [_read_caption(source, one) for one in source.manifest.samples]
    if request.sample_license is not None:
        contents |= _read_samples(source, captions)
    if not rows:
        command = f"glance compare --run {quote(str(source.run.path))}"
        notes.append(f"there are no images of this pair: `{command}` makes some")
    base = hub_base(source)
    if base is None:
        notes.append("the base model is not on the Hub, so that the card cannot link it")
    if request.license is None and base not in BINDING:
        notes.append("the card names no license: say yours with --license")
    if captions:
        whose = "the sample's" if len(captions) == 1 else "the first sample's"
        notes.append(f"the LoRAs' headers call the pair {source.name}, after {whose} file")
        if request.sample_license is None:
            what = "sample and its caption" if len(captions) == 1 else "samples and their captions"
            notes.append(f"the {what} are not sent: --sample-license ID sends them")
            # of an unknown one: any prompt may hold it
            own = [flatten(caption or "").casefold() for caption in captions]
            rows = [
                replace(row, prompt="")
                if any(one in flatten(row.prompt).casefold() for one in own)
                else row
                for row in rows
            ]
    return HubPlan(request, contents, tuple(notes), rows, sentence, captions)


def write_hub(plan: HubPlan, folder: Path) -> Exported:
    """Write the repository into a folder of its own: to look at, change, and send with `hf upload`.

    Raises InputError when the folder may not be replaced, SetupError when it cannot be written.
    """
    with whole_folder(folder, force=plan.request.force) as made:
        plan.write(made)
    return Exported(folder, tuple(sorted(list_files(folder))), plan.notes)


def send_hub(plan: HubPlan, on_event: EventSink) -> dict[str, Any]:
    """Send all files with `upload_folder`, and return what `glance export hub --json` prints.

    A new repository is private until it is whole. With `force`, what an earlier export left is
    replaced; other files stay. The token is HF_TOKEN's or the saved one, and is told to nobody but
    the Hub.

    Raises InputError when the repository holds files that may not be replaced, or is public
    already and that was not asked for; SetupError when there is no token, no right or no answer.
    """
    from huggingface_hub import HfApi, get_token, utils
    from huggingface_hub.errors import RepositoryNotFoundError

    if is_offline():
        raise SetupError(
            "HF_HUB_OFFLINE forbids sending to the Hub",
            hint="unset HF_HUB_OFFLINE, or look at what would be sent: --dry-run",
        )
    if get_token() is None:
        raise SetupError(
            "there is no token of the Hub",
            hint=f"make one with the right to write at {HUB}/settings/tokens, then "
            "`hf auth login` or set HF_TOKEN",
        )
    api, request, there = HfApi(), plan.request, None
    tools: Any = utils  # what is documented, and not in its __all__
    tools.disable_progress_bars()  # the terminal is not the library's
    tools.logging.set_verbosity_error()
    recorded = warnings.catch_warnings(record=True, action="always")
    with _temporary() as folder, _explained(request.repo), recorded as said:
        repo = request.repo if "/" in request.repo else f"{api.whoami()['name']}/{request.repo}"
        try:
            there = api.model_info(repo, timeout=20)
        except RepositoryNotFoundError:
            api.create_repo(repo, private=True)
        else:
            found = {one.rfilename for one in there.siblings or ()} - {".gitattributes"}
            if found and not request.force:
                raise InputError(
                    f"{repo} holds files already",
                    hint="give another --repo; --force would replace them",
                )
            if there.private is False and not request.public:
                raise InputError(
                    f"{repo} is public: everybody would see the pair",
                    hint="say that they may, --public, or make it private in its settings there",
                )
        paths = plan.write(folder, repo=repo)
        total = sum((folder / path).stat().st_size for path in paths) / 1e6
        on_event(Noted(f"sending {len(paths)} files, {total:.1f} MB, to {repo}"))
        done = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            commit_message=f"glance: pair {request.source.manifest.pair_id}",
            parent_commit=None if there is None else there.sha,
            delete_patterns=[f"{name}/*" for name in _FOLDERS],
        )
        if request.public and (there is None or there.private):
            api.update_repo_settings(repo, private=False)
    for one in said or ():
        if issubclass(one.category, UserWarning):  # of the Hub about the card
            on_event(Warned(str(one.message)))
    return {
        "repo": repo,
        "url": f"{api.endpoint}/{repo}",
        "commit": str(done.oid),
        "private": not request.public,
        "files": paths,
    }


def _check_names(request: HubRequest) -> None:
    from huggingface_hub import utils
    from huggingface_hub.errors import HFValidationError

    rules: Any = utils  # it is documented, and not in its __all__
    try:
        rules.validate_repo_id(request.repo)
    except HFValidationError as exc:
        raise InputError(
            f"--repo {request.repo!r} is no name of the Hub",
            hint="letters, digits, dots and dashes: my-pair, or owner/my-pair",
        ) from exc
    given = {"--license": request.license, "--sample-license": request.sample_license}
    for flag, license_ in given.items():
        if license_ is not None and not _LICENSE.fullmatch(license_):
            raise SettingsError(
                f"{flag} {license_!r} is no license of the Hub",
                hint="huggingface.co/docs/hub/repositories-licenses lists them",
            )


@contextmanager
def _temporary() -> Iterator[Path]:
    """Yield a folder that goes; what cannot be written to it is a SetupError."""
    with tempfile.TemporaryDirectory(prefix="glance-hub-") as folder:
        try:
            yield Path(folder)
        except OSError as exc:
            raise SetupError(
                f"the repository cannot be made ready: {reason_of(exc)}",
                hint="set TMPDIR to a folder that you may write to and that has space left",
            ) from exc


@contextmanager
def _explained(repo: str) -> Iterator[None]:
    """Turn what a request to the Hub raises into a SetupError."""
    from huggingface_hub.errors import HfHubHTTPError

    transport: Any = HfHubHTTPError.__bases__[0]  # of its HTTP client
    rights = f"make one that has at {HUB}/settings/tokens; only members write to an organisation"
    refusals = {
        401: ("the Hub does not know the token", "`hf auth login` again, or set HF_TOKEN"),
        **dict.fromkeys((403, 404), (f"the token has no right to write to {repo}", rights)),
        412: (f"{repo} changed in the meantime", "look at it, then run the same again"),
        429: ("the Hub wants fewer requests", "try again later"),
    }
    try:
        yield
    except (HfHubHTTPError, transport, RuntimeError, ValueError) as exc:
        line = reason_of(exc)
        message, hint = f"the Hub did not take {repo}: {line}", "--dry-run shows the card"
        if isinstance(exc, HfHubHTTPError):
            message, hint = refusals.get(exc.response.status_code, (message, hint))
        elif isinstance(exc, transport):
            message = f"the Hub does not answer: {line}"
            hint = "check the connection, then run the same command again"
        raise SetupError(message, hint=hint) from exc


def _find_images(source: Source) -> tuple[list[CardRow], dict[str, bytes], str | None]:
    """Return rows, images by path, and the verdict: of a comparison, else of the run's images/.

    Only what says that this very pair made it is taken; which images that are depends on the run's
    content alone, not on dates or places.
    """
    taught = source.manifest.verdict
    sentence = None if taught is None else str(taught["sentence"])
    phases = source.manifest.phases.items()
    loras = {phase.value: one.lora and one.lora.sha256 for phase, one in phases}
    folder, images = source.run.images / "compare", dict[str, bytes]()
    rows: list[CardRow] = []
    try:
        compared = json.loads(_inside(source, folder / "compare.json").read_bytes())
        if (compared["loras"], compared["schedule"]) == (loras, source.schedule.to_json()):
            for number, row in enumerate(compared["rows"][:MOST_ROWS], start=1):
                labels = {}
                for variant in map(Variant, row["variants"]):
                    path = f"pictures/{number}-{variant}.png"
                    images[path] = _encode(source, find_picture(folder, number, variant))
                    labels[path] = variant.label(int(row["variants"][variant]["steps"]))
                rows.append(CardRow(str(row["prompt"]), int(row["seed"]), labels))
            return rows, images, sentence or compared.get("sentence")
    except DECODER_ERRORS:  # there is none, or it is damaged
        rows, images = [], {}
    for file in sorted(source.run.images.glob("*")):
        if len(rows) == MOST_ROWS or file.suffix.lower() not in FORMATS:
            continue
        with suppress(InputError, *DECODER_ERRORS):  # it records nothing, or cannot be read
            record, content = read_record(_inside(source, file)), _encode(source, file)
            used = {use.phase.value: use.sha256 for use in record.loras}
            is_usual = all(use.scale == 1 for use in record.loras) and not record.extra_loras
            if used == loras and is_usual and not record.init_latents_sha256:
                name, label = f"pictures/{len(rows) + 1}.png", Variant.BOTH.label(record.steps)
                images[name] = content
                rows.append(CardRow(record.settings.prompt, record.settings.seed, {name: label}))
    return rows, images, sentence


def _read_caption(source: Source, sample: SampleRecord) -> str | None:
    with suppress(OSError, UnicodeDecodeError):
        return read_text(_inside(source, source.run.path / sample.caption)).strip() or None
    return None


def _read_samples(source: Source, captions: Sequence[str | None]) -> dict[str, bytes]:
    """Return images and captions by path; raises RunError for all that cannot be read."""
    if not captions:
        raise RunError(
            "the run has no sample: the pair was imported", hint="leave out --sample-license"
        )
    hint = "put it back, or leave out --sample-license: then it is not sent"
    found, problems = dict[str, bytes](), list[Problem]()
    samples = zip(source.manifest.samples, captions, sample_names(len(captions)), strict=True)
    for record, caption, name in samples:
        try:
            found[f"{name}.png"] = _encode(source, source.run.path / record.image)
        except DECODER_ERRORS:
            problems.append(Problem(f"the run's sample cannot be read: {record.image}", hint))
        if caption is None:
            problems.append(Problem(f"the run's caption cannot be read: {record.caption}", hint))
        found[f"{name}.txt"] = f"{caption}\n".encode()
    if problems:
        raise RunError(problems)
    return found


def _encode(source: Source, path: Path) -> bytes:
    """Return an image's pixels as PNG and nothing else of it; raises one of DECODER_ERRORS."""
    with open_picture(_inside(source, path)) as picture:
        pixels, _ = to_rgb(picture)
    encoded = BytesIO()
    pixels.save(encoded, format="PNG")
    return encoded.getvalue()


def _inside(source: Source, path: Path) -> Path:
    """Return `path`; raises FileNotFoundError where it leads out of the run."""
    if not path.resolve().is_relative_to(source.run.path.resolve()):
        raise FileNotFoundError(path)
    return path
