"""The Hugging Face Hub: may a model be had, and what do its small files say. No weights."""

from pathlib import Path

from glance.errors import ModelNotFound


def check_access(model: str) -> str | None:
    """Ask, before anything long starts, whether a Hub model can be had.

    It takes one small request, or none when the model is in the cache. Raises ModelNotFound when
    the Hub says no; returns a warning when nobody can say.
    """
    from huggingface_hub import auth_check, constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if _is_cached(model):
        return None
    if constants.is_offline_mode():
        return f"model {model} is not in the cache, and HF_HUB_OFFLINE forbids fetching it"
    try:
        auth_check(model)
    except GatedRepoError as exc:
        raise ModelNotFound(
            f"model {model} is gated, and there is no token with a right to it",
            hint="accept its licence on its Hub page, then `hf auth login` or set HF_TOKEN",
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


def _is_cached(model: str) -> bool:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        snapshot_download(model, local_files_only=True)
    except LocalEntryNotFoundError:
        return False
    return True


def _transport_errors() -> tuple[type[BaseException], ...]:
    """Return what a request to the Hub raises: the bases are those of its HTTP client, any."""
    from huggingface_hub.errors import HfHubHTTPError

    return (OSError, *HfHubHTTPError.__bases__)
