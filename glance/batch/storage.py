"""Runs that are kept elsewhere: in an object store, or wherever else fsspec reaches.

A run is trained in a folder of the machine that trains it and moved to its address when its command
has ended well: the manifest last, so that what a move leaves that was broken off is no run, and the
next move of that run replaces it.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from glance.batch.worker import Job, JobEnd, Worker
from glance.core.errors import GlanceError, InputError, RunError, SetupError, shown
from glance.core.files import beside
from glance.core.install import how_to_install
from glance.runs.folder import RunFolder, writing
from glance.runs.listing import clean_run
from glance.runs.losses import last_loss
from glance.runs.manifest import load_manifest

_MANIFEST: Final = RunFolder(Path()).manifest.name
_BROKEN: Final = "check the address and the credentials, and run the same command again"


def is_address(text: str) -> bool:
    """Whether it names a place that fsspec reaches, `s3://bucket/folder`, and not a path."""
    return "://" in text


class Storage:
    """The runs of one batch at their address, a folder each."""

    def __init__(self, address: str) -> None:
        """Find what reaches the address; nothing is asked of it yet.

        Raises SetupError where the package for it is missing, InputError for an address of no kind
        that is known.
        """
        import fsspec
        from fsspec.registry import known_implementations

        self.address = address.rstrip("/")
        protocol = address.partition("://")[0]
        more = {"auto_mkdir": True} if protocol in ("file", "local") else {}
        try:
            self._files, self._root = fsspec.core.url_to_fs(
                self.address, skip_instance_cache=True, use_listings_cache=False, **more
            )
        except ImportError as exc:
            package = known_implementations[protocol]["class"].partition(".")[0]
            raise SetupError(
                f"{shown(address)}: {package} is missing", hint=how_to_install(package)
            ) from exc
        except ValueError as exc:
            raise InputError(
                f"--output {shown(address)}: {exc}", hint="s3://bucket/folder, or a path"
            ) from exc

    @property
    def scratch(self) -> Path:
        """Where the runs are trained on whatever machine does it, until they are moved."""
        place = sha256(self.address.encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()).absolute() / f"glance-{os.getuid()}" / place

    def locate(self, name: str) -> str:
        """Return the address of a run."""
        return f"{self.address}/{name}"

    def require_writable(self) -> None:
        """Raise SetupError where nothing can be written: now, and not after hours of training."""
        with self._reaching():
            self._files.pipe_file(f"{self._root}/.glance", b"")
            self._files.rm_file(f"{self._root}/.glance")

    def find(self, names: Iterable[str]) -> dict[str, bytes]:
        """Return what the manifests hold of those runs that are there. Raises SetupError."""
        paths = {f"{self._root}/{name}/{_MANIFEST}": name for name in names}
        with self._reaching():
            found = self._files.cat(list(paths), on_error="return") if paths else {}
            if not isinstance(found, Mapping):
                found = dict.fromkeys(paths, found)
            for answer in found.values():
                if isinstance(answer, Exception) and not isinstance(answer, FileNotFoundError):
                    raise answer
        return {paths[path]: one for path, one in found.items() if isinstance(one, bytes)}

    def move(self, run: RunFolder, name: str) -> None:
        """Move a run to its address, in place of whatever is there.

        Until all its files are there, at their sizes, there is no manifest and so no run; and until
        there is, the folder here is left as it is. Raises SetupError.
        """
        target = f"{self._root}/{name}"
        with writing(run.path):
            files = {
                f"{target}/{path.relative_to(run.path).as_posix()}": path
                for path in sorted(run.path.rglob("*"))
                if path.is_file() and not path.is_symlink() and path not in (run.manifest, run.lock)
            }
        with self._reaching():
            self._remove(target)
            self._files.put([*map(str, files.values())], [*files])
            there = self._files.find(target, detail=True)
            sizes = {path.rpartition(f"{target}/")[2]: one["size"] for path, one in there.items()}
            for path, file in files.items():
                if sizes.get(path.removeprefix(f"{target}/")) != file.stat().st_size:
                    raise OSError(f"{path} did not arrive whole")
            self._files.put_file(str(run.manifest), f"{target}/{run.manifest.name}")
        shutil.rmtree(run.path, ignore_errors=True)

    def fetch(self, name: str, run: RunFolder) -> None:
        """Copy a run that is there to a folder here, whole or not at all. Raises SetupError."""
        with writing(run.path), beside(run.path) as made:
            with self._reaching():
                self._files.get(f"{self._root}/{name}/", f"{made}/", recursive=True)
            shutil.rmtree(run.path, ignore_errors=True)
            made.rename(run.path)

    def keep(self, files: Mapping[str, Path]) -> None:
        """Copy files to their places below the address. Raises SetupError."""
        with self._reaching():
            for name, path in files.items():
                self._files.put_file(str(path), f"{self._root}/{name}")

    def _remove(self, target: str) -> None:
        manifest = f"{target}/{_MANIFEST}"
        if self._files.exists(manifest):
            self._files.rm_file(manifest)
        if self._files.exists(target):
            self._files.rm(target, recursive=True)

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """Turn whatever a store's own package raises into a SetupError that names the address."""
        try:
            yield
        except GlanceError:
            raise
        except Exception as exc:  # each package has a tree of errors of its own
            words = " ".join(str(exc).split()) or type(exc).__name__
            raise SetupError(f"{shown(self.address)}: {shown(words)}", hint=_BROKEN) from exc


class StoringWorker(Worker):
    """Runs jobs on this machine and moves their runs to an address."""

    def __init__(self, storage: Storage, *, cleans: bool = False) -> None:
        """Begin with nothing that runs.

        With `cleans` a run is moved without what `glance runs clean` removes.
        """
        super().__init__()
        self._storage = storage
        self._cleans = cleans

    def run(
        self,
        job: Job,
        *,
        environment: Mapping[str, str],
        log: Path,
        on_event: Callable[[dict[str, Any]], None],
    ) -> JobEnd:
        """See Worker. A run that is at its address goes on from there, one that is here from here.

        A job that fails leaves its run here, and its logs at the address too.
        """
        run = RunFolder(job.run)
        try:
            self._own_scratch()
            if not run.manifest.exists() and self._storage.find([job.name]):
                self._storage.fetch(job.name, run)
            end = super().run(job, environment=environment, log=log, on_event=on_event)
            if end.is_done:
                result = {**end.result, "losses": _find_losses(run)}
                if self._cleans:
                    clean_run(run.path, only_look=False)
                self._storage.move(run, job.name)
                return replace(end, result={**result, "run": self._storage.locate(job.name)})
            if not end.is_stopped:
                self._keep_logs(job, log)
        except GlanceError as exc:
            return JobEnd(exc.exit_code, exc.problems)
        return end

    def _own_scratch(self) -> None:
        """Make the folder that the runs are in; raise SetupError where another user has made it."""
        scratch = self._storage.scratch
        for folder in (scratch.parent, scratch):
            with writing(folder):
                folder.mkdir(mode=0o700, exist_ok=True)
                status = folder.stat(follow_symlinks=False)
            if status.st_uid != os.getuid() or status.st_mode & 0o022 or folder.is_symlink():
                raise SetupError(
                    f"{folder} belongs to another user, or others may write to it",
                    hint="set TMPDIR to a folder of your own",
                )

    def _keep_logs(self, job: Job, log: Path) -> None:
        logs = {path.name: path for path in (job.run / "logs").glob("*.log")}
        with suppress(SetupError):  # why the job failed is the news
            self._storage.keep({f"logs/{job.name}/{name}": path for name, path in logs.items()})
            self._storage.keep({f"logs/{job.name}.log": log})


def _find_losses(run: RunFolder) -> dict[str, float | None]:
    """Return the last loss of each phase; nothing where they cannot be read."""
    try:
        manifest = load_manifest(run)
    except RunError:
        return {}
    return {phase.value: last_loss(run, manifest, phase) for phase in manifest.phases}
