"""Sending a planned repository to the Hub: in one commit, so that there is never half of one."""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from glance.core.errors import GlanceError, InputError, SetupError
from glance.core.events import EventSink, Noted, Warned
from glance.core.phase import Phase
from glance.interop.hub.card import COMFYUI, SAMPLE
from glance.interop.hub.pictures import FOLDER
from glance.interop.hub.plan import HubFile, HubPlan

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.hf_api import ModelInfo

_PATIENCE: Final = 20.0  # seconds that the Hub has for its first answer
_OURS: Final = (FOLDER, COMFYUI, PurePosixPath(SAMPLE).parts[0])
"""Folders that are an export's alone: what an earlier one left in them goes."""
_KEPT: Final = (".gitattributes", ".gitignore", "LICENSE", "LICENSE.md", "LICENSE.txt")
"""What may lie in a repository beside an export."""


@dataclass(frozen=True, slots=True)
class HubResult:
    """What is on the Hub now."""

    repo: str
    url: str
    commit: str
    public: bool
    files: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return what `glance export hub --json` prints."""
        return {
            "repo": self.repo,
            "url": self.url,
            "commit": self.commit,
            "private": not self.public,
            "files": list(self.files),
        }


def send_hub(plan: HubPlan, on_event: EventSink) -> HubResult:
    """Send all files in one commit; a new repository is private until it is whole.

    With `force`, what an earlier export left there is replaced; files of any other kind are not.
    The token is HF_TOKEN's or the saved one, and is told to nobody but the Hub.

    Raises InputError when the repository holds files that may not be replaced, or is public
    already and that was not asked for; SetupError when there is no token, no right or no answer.
    """
    from huggingface_hub import CommitOperationDelete, HfApi

    _require_online()
    api = HfApi()
    with _explained(plan.repo):
        plan = plan.owned_by(_ask_who_sends(api))
        there = _find_repo(api, plan.repo)
    stale = [] if there is None else _replaceable(plan, there)
    with _additions(plan) as additions, _explained(plan.repo), _quietly(on_event):
        if there is None:
            api.create_repo(plan.repo, private=True)
        on_event(Noted(_announce(plan)))
        done = api.create_commit(
            plan.repo,
            [*(CommitOperationDelete(path_in_repo=path) for path in stale), *additions],
            commit_message=f"glance: pair {plan.card.source.manifest.pair_id}",
            parent_commit=None if there is None else there.sha,
        )
        if plan.public and (there is None or there.private):
            api.update_repo_settings(plan.repo, private=False)
    files = tuple(file.path for file in plan.files)
    return HubResult(plan.repo, f"{api.endpoint}/{plan.repo}", str(done.oid), plan.public, files)


def _announce(plan: HubPlan) -> str:
    total = sum(file.bytes for file in plan.files) / 1e6
    return f"sending {len(plan.files)} files, {total:.1f} MB, to {plan.repo}"


def _require_online() -> None:
    from huggingface_hub import get_token

    from glance.core.hub import is_offline

    if is_offline():
        raise SetupError(
            "HF_HUB_OFFLINE forbids sending to the Hub",
            hint="unset HF_HUB_OFFLINE, or look at what would be sent: --dry-run",
        )
    if get_token() is None:
        raise SetupError(
            "there is no token of the Hub",
            hint="make one with the right to write at https://huggingface.co/settings/tokens, then "
            "`hf auth login` or set HF_TOKEN",
        )


def _ask_who_sends(api: "HfApi") -> str:
    """Return the token's owner. HfApi.whoami would wait forever for a Hub that does not answer."""
    from huggingface_hub import utils

    tools: Any = utils  # what is documented, and not in its __all__
    answer = tools.get_session().get(
        f"{api.endpoint}/api/whoami-v2", headers=tools.build_hf_headers(), timeout=_PATIENCE
    )
    tools.hf_raise_for_status(answer)
    return str(answer.json()["name"])


def _find_repo(api: "HfApi", repo: str) -> "ModelInfo | None":
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return api.model_info(repo, timeout=_PATIENCE)
    except RepositoryNotFoundError:
        return None


def _replaceable(plan: HubPlan, there: "ModelInfo") -> list[str]:
    """Return what an earlier export left and this one lacks.

    Raises InputError unless all that is there may be replaced.
    """
    found = {one.rfilename for one in there.siblings or ()} - set(_KEPT)
    new = {file.path for file in plan.files}
    strangers = sorted(name for name in found - new if name.split("/")[0] not in _OURS)
    if strangers:
        raise InputError(
            f"{plan.repo} holds what this export would not write: {', '.join(strangers[:3])}",
            hint="give another --repo",
        )
    if found and not plan.force:
        raise InputError(
            f"{plan.repo} holds files already",
            hint="give another --repo; --force would replace them",
        )
    if there.private is False and not plan.public:
        raise InputError(
            f"{plan.repo} is public: everybody would see the pair",
            hint="say that they may, --public, or make it private in its settings on the Hub",
        )
    return sorted(found - new)


@contextmanager
def _additions(plan: HubPlan) -> Iterator[list["CommitOperationAdd"]]:
    """Yield what is sent; a LoRA is written to a temporary folder, with all its metadata."""
    from huggingface_hub import CommitOperationAdd

    with tempfile.TemporaryDirectory(prefix="glance-hub-") as folder:
        try:
            contents = [(file.path, _content(plan, file, Path(folder))) for file in plan.files]
        except OSError as exc:
            raise SetupError(
                f"the LoRAs cannot be made ready: {exc.strerror or exc}",
                hint="set TMPDIR to a folder that you may write to and that has space left",
            ) from exc
        yield [CommitOperationAdd(path, content) for path, content in contents]


def _content(plan: HubPlan, file: HubFile, folder: Path) -> bytes | Path:
    if not isinstance(file.content, Phase):
        return file.content
    path = folder / f"{file.content}.safetensors"
    plan.card.source.copy_lora(file.content, path)
    return path


@contextmanager
def _quietly(on_event: EventSink) -> Iterator[None]:
    """Keep huggingface_hub from the terminal, which is not its; its warnings become events."""
    from huggingface_hub import utils

    library: Any = utils  # what is documented, and not in its __all__
    was_quiet, level = library.are_progress_bars_disabled(), library.logging.get_verbosity()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        library.disable_progress_bars()
        library.logging.set_verbosity_error()
        try:
            yield
        finally:
            library.logging.set_verbosity(level)
            if not was_quiet:
                library.enable_progress_bars()
    for one in said:
        if issubclass(one.category, UserWarning):
            on_event(Warned(str(one.message)))


@contextmanager
def _explained(repo: str) -> Iterator[None]:
    """Turn what a request to the Hub raises into a SetupError."""
    from huggingface_hub.errors import HfHubHTTPError

    transport: Any = HfHubHTTPError.__bases__  # of its HTTP client, and OSError
    try:
        yield
    except GlanceError:
        raise
    except HfHubHTTPError as exc:
        raise _refused(repo, exc.response.status_code, exc) from exc
    except transport as exc:
        raise SetupError(
            f"the Hub does not answer: {_first_line(exc)}",
            hint="check the connection, then run the same command again: nothing is half done",
        ) from exc
    except (RuntimeError, ValueError) as exc:  # an upload that failed, a card that is refused
        raise SetupError(
            f"the Hub did not take {repo}: {_first_line(exc)}",
            hint="run the same command again; --dry-run shows the card",
        ) from exc


def _refused(repo: str, status: int, exc: Exception) -> SetupError:
    match status:
        case 401:
            return SetupError(
                "the Hub does not know the token",
                hint="log in again, `hf auth login`, or set HF_TOKEN, which goes over it",
            )
        case 403 | 404:
            return SetupError(
                f"the token has no right to write to {repo}",
                hint="make one that has at https://huggingface.co/settings/tokens; only members "
                "write to an organisation",
            )
        case 409 | 412:
            return SetupError(
                f"{repo} changed in the meantime", hint="look at it, then run the same again"
            )
        case 429:
            return SetupError("the Hub wants fewer requests", hint="try again later")
        case _:
            return SetupError(
                f"the Hub refused with status {status}: {_first_line(exc)}",
                hint="try again later, and --dry-run shows what is sent",
            )


def _first_line(exc: BaseException) -> str:
    return next(iter(str(exc).strip().splitlines()), type(exc).__name__)
