"""Nothing that is there already becomes an import."""

from glance.core.errors import RunError
from glance.runs.folder import RunFolder, writing


def require_free(run: RunFolder) -> None:
    """Raise RunError when anything is where the run shall be: nothing is overwritten.

    Raises SetupError for a path that no file system takes.
    """
    with writing(run.path):
        is_there = run.path.exists() and not (run.path.is_dir() and not any(run.path.iterdir()))
    if is_there:
        what = "is a run already" if run.manifest.exists() else "is there already"
        raise RunError(f"{run.path} {what}: nothing is overwritten", hint="give another --run")
