"""The Hugging Face Hub: may a model be had, what do its small files say; and fetching it."""

import io
import json
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, Final

from glance.core.errors import ModelNotFound, SetupError, reason_of
from glance.core.events import EventSink, ModelFetched

_INDEX: Final = "model_index.json"
_SUFFIX: Final = ".safetensors"
_FILE: Final = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[\w.-]+)(:(?P<file>[^:]+))?")
_ADDRESS: Final = re.compile(
    r"https?://(www\.)?(huggingface\.co|hf\.co)/(?P<repo>[\w.-]+/[\w.-]+)"
    r"(/(blob|resolve|raw)/[^/]+/(?P<file>[^?#]+))?"
)
_LICENCE: Final = "accept its licence on its Hub page, then `hf auth login` or set HF_TOKEN"
_OTHER_FORMATS: Final = (
    *("*.onnx*", "*.msgpack", "*.h5", "*.ckpt", "*.pth", "*.gguf", "*.tflite"),
    *("*.fp16[.-]*", "*.bf16[.-]*", "*consolidated*"),  # the same weights again
    *("*.png", "*.jpg", "*.jpeg", "*.gif", "*.webp", "*.mp4"),
)


def check_access(model: str) -> str | None:
    """Ask, before anything long starts, whether a Hub model is accessible.

    It takes one small request, or none when the model is in the cache. Raises ModelNotFound when
    the Hub says no; returns a warning when neither cache nor Hub can tell.
    """
    from huggingface_hub import auth_check, constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if find_snapshot(model) is not None:
        return None
    if constants.is_offline_mode():
        return f"model {model} is not in the cache, and HF_HUB_OFFLINE forbids fetching it"
    try:
        auth_check(model)
    except GatedRepoError as exc:
        raise ModelNotFound(
            f"model {model} is gated, and there is no token with a right to it", hint=_LICENCE
        ) from exc
    except RepositoryNotFoundError as exc:
        raise ModelNotFound(
            f"the Hub has no model {model}, or it is private",
            hint="check --model; for a private model set HF_TOKEN",
        ) from exc
    except _transport_errors() as exc:
        return f"model {model} is not in the cache, and the Hub does not answer: {exc}"
    return None


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids to ask."""
    from huggingface_hub import constants

    return bool(constants.is_offline_mode())


def cache_folder() -> Path:
    """Return where models from the Hub are kept."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def read_hub_text(model: str, name: str) -> str | None:
    """Return a small text file of a Hub model, cached or fetched; None when it cannot be had."""
    from huggingface_hub import HfFileSystem, constants, try_to_load_from_cache

    cached = try_to_load_from_cache(model, name)
    if isinstance(cached, str):
        return Path(cached).read_text(encoding="utf-8")
    if constants.is_offline_mode():
        return None
    try:
        text: str = HfFileSystem().read_text(f"{model}/{name}", encoding="utf-8")
    except _transport_errors():
        return None
    return text


def is_hub_file(reference: str) -> bool:
    """Whether it has the form `owner/repo:file` or `owner/repo`."""
    return split_hub_file(reference) is not None


def split_hub_file(reference: str) -> tuple[str, str | None] | None:
    """Return the repository and the file of `owner/repo:file` or `owner/repo`; None: it is none."""
    match = _FILE.fullmatch(reference)
    if match is None or (match["file"] is None and reference.endswith(_SUFFIX)):
        return None
    return match["repo"], match["file"]


def name_address(address: str) -> str | None:
    """Return what a page of the Hub is called here: owner/repo, or owner/repo:file."""
    match = _ADDRESS.match(address)
    if match is None:
        return None
    return match["repo"] if match["file"] is None else f"{match['repo']}:{match['file']}"


def fetch_beside(reference: str, file: Path, names: Sequence[str]) -> None:
    """Fetch what lies beside a file of the Hub that was fetched; what is not there is left."""
    from huggingface_hub import hf_hub_download

    found = split_hub_file(reference)
    assert found is not None
    folder = PurePosixPath(found[1] or file.name).parent
    for name in names:
        with suppress(*_transport_errors()):
            hf_hub_download(found[0], (folder / name).as_posix())


def find_hub_file(reference: str, *, default: str, or_else: str | None = None) -> Path | None:
    """Return a file of a Hub model, `owner/repo:file` or `owner/repo`, fetched if it must be.

    Of a repository alone that is `default`, and `or_else` where it has none. None when the
    reference is not of that form. Raises SetupError when the file cannot be had.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    found = split_hub_file(reference)
    if found is None:
        return None
    repo, name = found[0], found[1] or default
    try:
        return Path(hf_hub_download(repo, name))
    except LocalEntryNotFoundError as exc:  # of the errors below, too, so it comes first
        offline = constants.is_offline_mode()
        raise SetupError(
            f"{name} of {repo} is not in the cache, and "
            + ("HF_HUB_OFFLINE forbids fetching it" if offline else "the Hub does not answer"),
            hint="unset HF_HUB_OFFLINE" if offline else "try again, or give a file that is here",
        ) from exc
    except GatedRepoError as exc:
        raise SetupError(
            f"{repo} is gated, and there is no token with a right to it", hint=_LICENCE
        ) from exc
    except RepositoryNotFoundError as exc:
        raise SetupError(
            f"the Hub has no {repo}, or it is private",
            hint="check the name; for a private one set HF_TOKEN",
        ) from exc
    except EntryNotFoundError as exc:
        if or_else is not None and found[1] is None:
            return find_hub_file(f"{repo}:{or_else}", default=default)
        raise SetupError(
            f"the Hub's {repo} has no file {name}",
            hint=f"name one of its files: {repo}:file.safetensors",
        ) from exc
    except _transport_errors() as exc:
        raise SetupError(
            f"{name} of {repo} cannot be fetched: {reason_of(exc)}",
            hint="try again, or give a file that is here",
        ) from exc


def find_revision(model: str) -> str | None:
    """Return the commit of a Hub model's snapshot in the cache; None when there is none."""
    snapshot = find_snapshot(model)
    return None if snapshot is None else snapshot.name


def fetch_model(model: str, on_event: EventSink) -> bool:
    """Fetch what a training needs of a Hub model; return whether all of it is in the cache now.

    Of a diffusers pipeline that is its parts, in safetensors where there are any. What is whole in
    the cache is taken as it is, and nobody asked; else files that are there are not fetched again.
    huggingface_hub 2.4 resumes a file that breaks off, but not in another process. It is told how
    far it is and how long the rest takes. False when nobody can be asked. Raises SetupError when
    the fetching breaks off.
    """
    from huggingface_hub import constants, snapshot_download

    snapshot = find_snapshot(model)
    if snapshot is not None and _is_whole(snapshot):
        _note_absent(snapshot)
        return True
    if constants.is_offline_mode():
        return False
    files = _list_needed(model)
    if files is None:
        return False
    began: list[tuple[float, int]] = []

    def on_progress(done: int, total: int) -> None:
        now = time.monotonic()
        began.append((now, done)) if not began else None
        seconds, fetched = now - began[0][0], done - began[0][1]
        eta = (total - done) * seconds / fetched if fetched > 0 and seconds > 1 else None
        on_event(ModelFetched(model, done, total, None if eta is None else round(eta, 1)))

    try:
        progress = _reporting_to(on_progress)
        fetched_to = snapshot_download(model, allow_patterns=files, tqdm_class=progress)
    except _transport_errors() as exc:
        raise SetupError(
            f"fetching {model} broke off: {reason_of(exc)}",
            hint="run the same command again: what is whole stays",
        ) from exc
    _note_absent(Path(fetched_to))
    return True


def is_part(value: object) -> bool:
    """Whether an entry of a pipeline's index is [library, class]; lists of its own are there too.

    An optional part that is not there is [null, null].
    """
    if not isinstance(value, list) or len(value) != 2:
        return False
    return all(isinstance(word, str) and word for word in value)


def _list_needed(model: str) -> list[str] | None:
    """Return the files to fetch; None when the Hub cannot be asked."""
    from huggingface_hub import snapshot_download

    index = read_hub_text(model, _INDEX)
    try:
        parts = json.loads(index) if index is not None else {}
    except ValueError:
        parts = {}
    folders = [f"{name}/*" for name, kind in parts.items() if is_part(kind)]
    try:
        found: Any = snapshot_download(
            model,
            allow_patterns=[_INDEX, *folders] if folders else None,
            ignore_patterns=list(_OTHER_FORMATS),
            dry_run=True,
            tqdm_class=_reporting_to(lambda *_: None),
        )
    except _transport_errors():
        return None
    names = [one.filename for one in found]
    safe = {PurePosixPath(name).parent for name in names if name.endswith(_SUFFIX)}
    return [  # no .bin weights that are there as safetensors too
        name for name in names if not (name.endswith(".bin") and PurePosixPath(name).parent in safe)
    ]


def find_snapshot(model: str) -> Path | None:
    """Return a Hub model's folder in the cache, whole or not; None: it is not there."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, local_files_only=True, allow_patterns=[_INDEX]))
    except OSError:  # LocalEntryNotFoundError
        return None


def _note_absent(snapshot: Path) -> None:
    """Note in the cache that tokenizers without a config.json have none, as huggingface_hub does.

    transformers' AutoTokenizer looks for one, and offline takes a file that nobody has ever asked
    the Hub for as out of reach: Z-Image, Chroma, Krea 2 and HiDream could not be trained.
    """
    for tokenizer in snapshot.glob("*/tokenizer_config.json"):
        config = tokenizer.with_name("config.json")
        if config.exists():
            continue
        place = config.relative_to(snapshot)
        note = snapshot.parents[1] / ".no_exist" / snapshot.name / place
        with suppress(OSError):  # a cache that is only read: the trainer says what it lacks
            note.parent.mkdir(parents=True, exist_ok=True)
            note.touch()


def _is_whole(snapshot: Path) -> bool:
    """Whether a pipeline's parts are all there, each with all its weights, by its own indices."""
    try:
        parts = json.loads((snapshot / _INDEX).read_text(encoding="utf-8"))
        folders = [snapshot / name for name, kind in parts.items() if is_part(kind)]
        return bool(folders) and all(map(_is_whole_part, folders))
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return False


def _is_whole_part(folder: Path) -> bool:
    if not any(folder.iterdir()):
        return False
    indices = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.index.json")]
    shards = {name for index in indices for name in index["weight_map"].values()}
    if shards:
        return all((folder / name).is_file() for name in shards)
    is_model = (folder / "config.json").is_file() and "tokenizer" not in folder.name
    return not is_model or any(folder.glob("*.safetensors")) or any(folder.glob("*.bin"))


def _reporting_to(on_progress: Callable[[int, int], None]) -> Any:
    """Return a class of progress bar that draws nothing and tells the bytes."""
    from huggingface_hub import utils

    base: Any = utils.tqdm  # type: ignore[attr-defined]  # it is documented, but not in __all__

    class Reporting(base):  # type: ignore[misc]  # untyped
        def __init__(self, *args: Any, **options: Any) -> None:
            self._tells = options.get("name") == "huggingface_hub.snapshot_download"
            super().__init__(*args, **{**options, "file": io.StringIO(), "disable": False})

        def update(self, n: float | None = 1) -> bool | None:
            result: bool | None = super().update(n)
            if self._tells and self.total:
                on_progress(int(self.n), int(self.total))
            return result

    return Reporting


def _transport_errors() -> tuple[type[BaseException], ...]:
    """Return what a request to the Hub raises: the bases are those of its HTTP client, any."""
    from huggingface_hub.errors import HfHubHTTPError

    return (OSError, *HfHubHTTPError.__bases__)
