"""The foreman of a batch on Ray, and what one of its tasks does on a node.

It hands every job to Ray as a task that needs a GPU, or a node's CPUs where there are none; Ray
gives it a node, and another one when that is lost. A task runs the job's command as this machine's
queue does, and tells the foreman what it hears. If the foreman is lost, Ray ends its tasks and
starts it again: it remembers which jobs are over, and hands out the others again.

A run goes on wherever its job is run next, for it lies in a folder that all nodes share. Its
checkpoints are sealed with the key of the machine that the batch was begun on: the tasks get it.
"""

import asyncio
import os
import platform
import secrets
import signal
import threading
import time
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import IntEnum
from hashlib import sha256
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import NamedTemporaryFile
from typing import Any, Final

from glance import __version__
from glance.batch.storage import Storage, StoringWorker
from glance.batch.worker import Job, JobEnd, Worker
from glance.core.errors import InputError, Problem, SetupError, TrainingFailed, shown
from glance.core.files import state_folder
from glance.runs.checkpoints import KEY
from glance.runs.lock import TRAINED_BY
from glance.training.shared import SHARED

TICK_SECONDS: Final = 1.0  # between a job's reports, and between questions for news
AT_ONCE: Final = 2000  # jobs that Ray knows of
KEPT: Final = "schedules"
"""What of a machine's state its jobs need elsewhere, beside its key."""
ON_EVERY_NODE: Final = "install the same glance on every node, with its extra ray"
_ANSWER_SECONDS: Final = 60.0
_LINGERS_SECONDS: Final = 600.0  # how long a foreman waits whose jobs are over
_FRUITLESS: Final = 3  # losses of a job, in a row, that came no further than the one before
_HELD_SECONDS: Final = 150.0  # a file server keeps the locks of a node that is gone for 90
_HELD_TICK_SECONDS: Final = 5.0


class Order(IntEnum):
    """What the jobs that run are to do."""

    GO_ON = 0
    SAVE = 1
    """And end."""
    END = 2


@dataclass(frozen=True, slots=True)
class Terms:
    """What all jobs of a batch are run with."""

    version: str
    logs: Path
    shared: Path | None
    """The folder of what all runs need alike."""
    storage: str | None
    """The address that runs are moved to, if there is any."""
    cleans: bool
    """Whether a finished run's checkpoints and caches are removed before that."""
    state: dict[str, bytes]
    """What the machine that the batch was begun on keeps for itself: its key, its schedules."""


@dataclass(frozen=True, slots=True)
class Leave:
    """The foreman's answer to a task that wants to begin."""

    job: Job
    terms: Terms
    attempt: int
    refusal: JobEnd | None = None


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of jobs that the foreman was to take on."""

    is_busy: bool = False
    """Whether it took none, because it is ending others."""
    others: Sequence[str] = ()
    """Names under which it has others at work."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A job runs; `lost` were the attempts before it."""

    where: str
    lost: int


type What = Begun | dict[str, Any] | JobEnd
"""What is new of a job: that it has begun, an event that it told, how it ended."""


@dataclass(frozen=True, slots=True)
class News:
    """What is new since somebody asked; `life` is another one when the foreman was started anew."""

    life: str
    version: int
    items: list[tuple[str, What]]
    is_over: bool
    """Whether no job is under way, nor waits to be."""


@dataclass(slots=True)
class _Post:
    """A job as the foreman knows it."""

    job: Job
    needs: dict[str, float]
    terms: Terms
    attempt: int = 0
    fruitless: int = 0
    """How many losses in a row came no further than what came before."""
    reached: dict[str, int] = field(default_factory=dict)
    """The last step of each of its stages that any attempt came to."""
    is_fruitful: bool = True
    """Whether this attempt has come further."""
    is_begun: bool = False
    task: Any = None
    """Ray's reference to it, while it is neither begun nor over."""
    end: JobEnd | None = None
    news: dict[object, int] = field(default_factory=dict)
    """The versions of what is new of it, by its kind."""


class Foreman:
    """Owns the queue of one batch. An actor whose methods take turns on one thread."""

    def __init__(self) -> None:
        import ray

        context = ray.get_runtime_context()
        self._me = context.current_actor
        self._memory = _Memory(context.get_actor_id())
        self._task = ray.remote(_run_job)
        self._life = secrets.token_hex(8)
        self._order = Order.GO_ON
        self._posts: dict[str, _Post] = {}
        self._version = 0
        self._news: dict[int, tuple[str, What]] = {}
        self._changed = asyncio.Event()
        self._waiting: deque[_Post] = deque()
        self._under_way: set[asyncio.Future[None]] = set()
        self._untold: dict[str, int] = {}  # jobs of whose end nobody knows
        self._asked = time.monotonic()
        posts, is_stopping = self._memory.recall()
        for post in posts:
            if post.end is not None:
                self._posts[post.job.name] = post
                self._add(post, "end", post.end)
                self._untold[post.job.name] = self._version
            elif not is_stopping:
                self._posts[post.job.name] = post
                self._waiting.append(post)
        self._give_out()
        self._leaving = asyncio.ensure_future(self._go_home())

    async def take(self, terms: Terms, jobs: Sequence[tuple[Job, dict[str, float]]]) -> Taken:
        """Take on those jobs that are not.

        One that is over is done again if somebody knows how it ended, because it is wanted anew.
        """
        if self._order != Order.GO_ON:
            if self._under_way:
                return Taken(is_busy=True)
            self._order = Order.GO_ON
            self._memory.note_stopping(is_stopping=False)
        fresh, others = [], []
        for job, needs in jobs:
            known = self._posts.get(job.name)
            if known is not None and (known.end is None or job.name in self._untold):
                if (known.job.command, known.job.folder) != (job.command, job.folder):
                    others.append(job.name)
                continue
            if known is not None:
                self._forget_news(known)
                self._memory.forget_job(job.name)
            self._posts[job.name] = post = _Post(job, needs, terms)
            fresh.append(post)
        self._memory.keep(fresh)
        self._waiting.extend(fresh)
        self._give_out()
        return Taken(others=others)

    async def tell_news(self, since: int, seconds: float) -> News:
        """Return what is new since that version, as soon as anything is."""
        self._asked = time.monotonic()
        if self._version <= since:
            self._changed.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), seconds)
        items = []
        for version in reversed(self._news):
            if version <= since:
                break
            items.append(self._news[version])
        self._note_known(since)
        is_over = not (self._waiting or self._under_way)
        return News(self._life, self._version, items[::-1], is_over)

    async def begin(self, name: str, where: str) -> Leave:
        """Say whether, and how, a task may run its job."""
        post = self._posts[name]
        if self._order != Order.GO_ON:
            stopped = JobEnd(128 + signal.SIGTERM)
            return Leave(post.job, post.terms, post.attempt, stopped)
        if post.attempt:
            post.fruitless = 0 if post.is_fruitful else post.fruitless + 1
        post.attempt, post.is_begun, post.is_fruitful = post.attempt + 1, True, False
        self._memory.note(post)
        refusal = None
        if post.fruitless >= _FRUITLESS:
            message = f"its worker was lost {_FRUITLESS} times in a row without progress"
            hint = "does it need more memory than a node has? run the same command for another try"
            refusal = JobEnd(TrainingFailed.exit_code, (Problem(message, hint),))
        self._add(post, "begun", Begun(where, post.attempt - 1))
        return Leave(post.job, post.terms, post.attempt, refusal)

    async def hear(self, name: str, attempt: int, events: list[dict[str, Any]]) -> Order:
        """Learn what a job told, and return what it is to do."""
        post = self._posts[name]
        if attempt != post.attempt:  # it was taken for lost
            return Order.END
        for event in events:
            stage, step = f"{event.get('event')} {event.get('phase')}", event.get("step")
            if isinstance(step, int) and step > post.reached.get(stage, 0):
                post.reached[stage], post.is_fruitful = step, True
            self._add(post, _kind_of(event), event)
        return self._order

    async def stop(self, order: Order) -> None:
        """Begin no job any more, and let those that run do what is ordered.

        Those that wait are forgotten: whoever wants them will bring them again.
        """
        import ray

        if order <= self._order:
            return
        self._order = order
        self._memory.note_stopping(is_stopping=True)
        for post in self._waiting:
            del self._posts[post.job.name]
        self._waiting.clear()
        for post in self._posts.values():
            if post.task is not None and not post.is_begun:
                ray.cancel(post.task)

    async def dismiss(self, known: int) -> bool:
        """Return whether all is over, and known to whoever knows that version: it may go then."""
        self._note_known(known)
        is_over = not (self._waiting or self._under_way or self._untold)
        if is_over:
            self._memory.forget()
        return is_over

    def _give_out(self) -> None:
        """Give jobs to Ray, as many as it is to know of."""
        while self._waiting and len(self._under_way) < AT_ONCE:
            following = asyncio.ensure_future(self._follow(self._waiting.popleft()))
            self._under_way.add(following)
            following.add_done_callback(self._note_room)

    def _note_room(self, following: "asyncio.Future[None]") -> None:
        self._under_way.discard(following)
        self._give_out()
        self._changed.set()

    async def _follow(self, post: _Post) -> None:
        """Give a job to Ray and wait for its end."""
        from ray.exceptions import RayError, TaskCancelledError

        options = {"name": f"glance {post.job.name}", "max_retries": -1, **post.needs}
        post.task = self._task.options(**options).remote(post.job.name, self._me)
        try:
            end = await post.task
        except TaskCancelledError:
            end = JobEnd(128 + signal.SIGTERM)
        except RayError as exc:
            end = JobEnd(1, (Problem(f"Ray could not run it: {say(exc)}", ON_EVERY_NODE),))
        self._note_end(post, end)

    def _note_end(self, post: _Post, end: JobEnd) -> None:
        post.task, post.end = None, end
        if post.is_begun:
            self._memory.note(post)
        self._add(post, "end", end)
        self._untold[post.job.name] = self._version

    def _note_known(self, known: int) -> None:
        """Note that somebody knows all up to that version: of what is over no more is kept."""
        for name in [name for name, version in self._untold.items() if version <= known]:
            del self._untold[name]
            post = self._posts[name]
            self._forget_news(post)
            post.end = post.end and replace(post.end, result={})

    def _add(self, post: _Post, kind: object, what: What) -> None:
        """Note what is new, in place of what was new of that kind."""
        self._news.pop(post.news.get(kind, 0), None)
        self._version += 1
        post.news[kind] = self._version
        self._news[self._version] = (post.job.name, what)
        self._changed.set()

    def _forget_news(self, post: _Post) -> None:
        for version in post.news.values():
            self._news.pop(version, None)
        post.news.clear()

    async def _go_home(self) -> None:
        """End when all is over and nobody has asked for long: the runs say what came of it."""
        import ray

        while True:
            await asyncio.sleep(_LINGERS_SECONDS / 10)
            is_missed = time.monotonic() - self._asked < _LINGERS_SECONDS
            if not is_missed and await self.dismiss(self._version):
                ray.kill(self._me)


def _kind_of(event: Mapping[str, Any]) -> object:
    """Return what of a job's news an event replaces: an older one of its kind, but no message."""
    return event.get("event"), event.get("phase"), event.get("message")


class _Memory:
    """What a foreman needs to know when it is restarted; Ray keeps it where it keeps actors."""

    def __init__(self, actor: str) -> None:
        self._prefix = f"glance:{actor}:"
        self._chunks = 0

    def keep(self, posts: Sequence[_Post]) -> None:
        """Keep jobs that are new."""
        if posts:
            self._chunks += 1
            content = [(post.job, post.needs, post.terms) for post in posts]
            self._put(f"jobs:{self._chunks:06}", content)

    def note(self, post: _Post) -> None:
        """Keep how far a job is."""
        known = (post.attempt, post.fruitless, post.reached, post.end)
        self._put(f"job:{post.job.name}", known)

    def note_stopping(self, *, is_stopping: bool) -> None:
        """Keep whether no job is to be begun any more."""
        self._put("is-stopping", is_stopping)

    def recall(self) -> tuple[Iterable[_Post], bool]:
        """Return the jobs as they are known, and whether none is to be begun any more.

        A foreman who has just begun knows nothing.
        """
        posts: dict[str, _Post] = {}
        for key in sorted(self._list("jobs:")):
            self._chunks += 1
            posts |= {job.name: _Post(job, needs, terms) for job, needs, terms in self._get(key)}
        for key in self._list("job:"):
            post = posts[key.removeprefix(f"{self._prefix}job:")]
            post.attempt, post.fruitless, post.reached, post.end = self._get(key)
        stopping = self._list("is-stopping")
        return posts.values(), bool(stopping and self._get(stopping[0]))

    def forget_job(self, name: str) -> None:
        """Keep nothing of how far a job was."""
        self._remove(f"{self._prefix}job:{name}")

    def forget(self) -> None:
        """Keep nothing at all."""
        for key in self._list(""):
            self._remove(key)

    def _put(self, key: str, content: object) -> None:
        from ray import cloudpickle
        from ray.experimental.internal_kv import _internal_kv_put

        packed = zlib.compress(cloudpickle.dumps(content))
        _internal_kv_put((self._prefix + key).encode(), packed, overwrite=True)

    def _get(self, key: str) -> Any:
        from ray import cloudpickle
        from ray.experimental.internal_kv import _internal_kv_get

        packed = _internal_kv_get(key.encode())
        return cloudpickle.loads(zlib.decompress(packed))

    def _list(self, prefix: str) -> list[str]:
        from ray.experimental.internal_kv import _internal_kv_list

        return [key.decode() for key in _internal_kv_list((self._prefix + prefix).encode())]

    def _remove(self, key: str) -> None:
        from ray.experimental.internal_kv import _internal_kv_del

        _internal_kv_del(key.encode())


# --- a job, on its node ---------------------------------------------------------------------------


def _run_job(name: str, foreman: Any) -> JobEnd:
    """Run a job on the node that Ray has chosen: what a task does.

    The foreman is not asked with ray.get: while that waits, Ray gives the CPUs to another task.
    """
    # Ray starts its processes with SIGINT blocked, and the commands would inherit that
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    leave: Leave = foreman.begin.remote(name, _say_where()).future().result()
    end = leave.refusal or _refuse_node(leave)
    return end or _Shift(leave, foreman).run()


def _say_where() -> str:
    import ray

    gpus = ", ".join(f"GPU {number}" for number in ray.get_gpu_ids())
    return f"{platform.node()}, {gpus}" if gpus else platform.node()


def _refuse_node(leave: Leave) -> JobEnd | None:
    """Return why a job cannot be run on this node; None where it can."""
    here, terms, folder = platform.node(), leave.terms, leave.job.folder
    if terms.version != __version__:
        message = f"{here} has glance {__version__}, the batch was begun with {terms.version}"
        return JobEnd(
            SetupError.exit_code, (Problem(message, "install the same glance on every node"),)
        )
    if not folder.is_dir():
        message = f"{here} has no folder {shown(folder)}, where the batch was begun"
        return JobEnd(
            SetupError.exit_code, (Problem(message, "begin it in a folder that all nodes share"),)
        )
    return None


class _Shift:
    """One attempt at a job."""

    def __init__(self, leave: Leave, foreman: Any) -> None:
        self._leave = leave
        self._foreman = foreman
        address, cleans = leave.terms.storage, leave.terms.cleans
        self._worker = StoringWorker(Storage(address), cleans=cleans) if address else Worker()
        self._told: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._node = os.getppid()  # Ray's own process, which stands for the node
        self._has_told = False
        self._is_over = threading.Event()

    def run(self) -> JobEnd:
        reporter = threading.Thread(target=self._report)
        reporter.start()
        try:
            return self._run_when_free()
        finally:
            self._is_over.set()
            reporter.join()

    def _run_when_free(self) -> JobEnd:
        """Run the job, when an attempt elsewhere that was taken for lost has let go of its run."""
        job, terms = self._leave.job, self._leave.terms
        deadline = time.monotonic() + _HELD_SECONDS
        while True:
            end = self._worker.run(
                job,
                environment=_make_environment(terms),
                log=terms.logs / f"{job.name}.log",
                on_event=self._hear,
            )
            is_held = end.exit_code == InputError.exit_code and TRAINED_BY in str(end.problems)
            if not is_held or time.monotonic() > deadline or self._is_over.wait(_HELD_TICK_SECONDS):
                return end

    def _hear(self, event: dict[str, Any]) -> None:
        self._has_told = True
        self._told.put(event)

    def _report(self) -> None:
        """Pass on what the job tells, and do what is ordered, until it is over."""
        from ray.exceptions import RayError

        followed, is_last = Order.GO_ON, False
        while not is_last:
            is_last = self._is_over.wait(TICK_SECONDS)
            if os.getppid() != self._node:  # the node is lost: it is run elsewhere
                self._worker.end()
            report = (self._leave.job.name, self._leave.attempt, [*self._drain()])
            try:
                asking = self._foreman.hear.remote(*report).future()
                order = asking.result(timeout=_ANSWER_SECONDS)
            except (RayError, FutureTimeout):
                continue  # it is lost, and Ray is about to end us, or it is too busy
            if order > followed:
                followed = order
                if order is Order.SAVE and self._has_told:
                    self._worker.interrupt()
                else:  # there is nothing to save, or no time
                    self._worker.end()

    def _drain(self) -> Iterator[dict[str, Any]]:
        with suppress(Empty):
            while True:
                yield self._told.get_nowait()


def _make_environment(terms: Terms) -> dict[str, str]:
    """Return the environment of a job: this node's, with the state of the batch's machine."""
    environment, state, own = dict(os.environ), terms.state, state_folder()
    if terms.shared is not None:
        environment[SHARED] = str(terms.shared)
    with suppress(OSError):
        if (own / KEY).read_bytes() == state[KEY]:  # this is that machine, or its home folder
            return environment
    home = own / "batches" / sha256(state[KEY]).hexdigest()[:16]
    for name, content in state.items():
        path = home / own.name / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=path.parent, delete=False) as file:  # nobody else may read it
            file.write(content)
        Path(file.name).replace(path)
    return {**environment, "XDG_STATE_HOME": str(home)}


def say(exc: Exception) -> str:
    """Return the last line of what Ray says, which is what went wrong."""
    lines = str(exc).strip().splitlines()
    return shown(lines[-1].strip() if lines else type(exc).__name__)
