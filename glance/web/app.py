"""The pages and what they ask: routes to the functions that plan, start and read."""

import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from glance.core.errors import Findings, GlanceError, InputError, Problem, RunError
from glance.core.files import is_there
from glance.core.phase import Phase
from glance.core.tables import Rows
from glance.models.families import FAMILIES
from glance.runs.folder import RUNS, RunFolder
from glance.runs.listing import remove_run
from glance.runs.manifest import load_manifest
from glance.runs.sample import examine_picture
from glance.sampling.provenance import FORMATS, read_record
from glance.schedule.lists import Schedule, parse_list
from glance.web import views
from glance.web.forms import COMPARE, DISTILL, FORMS, INFER, TRAIN, Form
from glance.web.guard import MOST_UPLOADED, RECORDS, UPLOADS, Door, Guard, Workspace
from glance.web.jobs import Jobs, shown_command

_HERE: Final = Path(__file__).parent
_MOST_DEEP: Final = 200  # characters of a path

type Answer = Callable[["Asked"], Any]


class JsonAnswer(JSONResponse):
    """JSON in ASCII: what somebody sent may hold half of a character, which UTF-8 has not."""

    def render(self, content: Any) -> bytes:
        """Return it as it is sent."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


class Asked:
    """One request, its body read: what handlers see of it."""

    def __init__(self, query: QueryParams, body: bytes) -> None:
        """Keep both as they came."""
        self.query = query
        self.body = body

    def text(self, name: str) -> str:
        """Return a parameter of the address; empty: it is not there."""
        return str(self.query.get(name, ""))

    @property
    def document(self) -> dict[str, Any]:
        """The JSON object that was sent; raises InputError."""
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError) as exc:
            raise InputError("what was sent is not JSON", hint="reload the page") from exc
        if not isinstance(found, dict):
            raise InputError("what was sent is no JSON object", hint="reload the page")
        return found

    def said(self, name: str) -> str:
        """Return a text of the JSON object that was sent; raises InputError."""
        found = self.document.get(name)
        if not isinstance(found, str) or not found or "\0" in found:
            raise InputError(f"{name} is missing", hint="reload the page")
        return found


class Site:
    """What all pages share: the working folder, its jobs, and the templates."""

    def __init__(self, workspace: Workspace, environment: Mapping[str, str]) -> None:
        """Serve the working folder, which is the current one; jobs get `environment`."""
        self.workspace = workspace
        self.jobs = Jobs(workspace.own / "jobs", root=workspace.root, environment=environment)
        # what plans and reads is made for one command a process
        self._core = threading.Lock()
        self._templates = Environment(
            loader=PackageLoader("glance.web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals.update(most_uploaded=MOST_UPLOADED)

    def app(self, door: Door) -> Starlette:
        """Return the application, guarded."""
        pages = {
            "/": self.home,
            "/new": self.new,
            "/runs": self.runs,
            "/run": self.run,
            "/sample": self.sample,
            "/compare": self.compare,
        }
        reads = {
            "/file": self.file,
            "/thumbnail": self.thumbnail,
            "/schedule.svg": self.schedule,
            "/export": self.export,
            "/api/run": self.run_state,
            "/api/job": self.job_state,
            "/api/images": self.images,
        }
        acts = {
            "/api/plan": self.plan,
            "/api/start": self.start,
            "/api/stop": self.stop,
            "/api/continue": self.resume,
            "/api/remove": self.remove,
            UPLOADS: self.upload,
            RECORDS: self.record,
        }
        return Starlette(
            routes=[
                *(Route(path, self._answer(one, is_page=True)) for path, one in pages.items()),
                *(Route(path, self._answer(one)) for path, one in reads.items()),
                *(Route(path, self._answer(one), methods=["POST"]) for path, one in acts.items()),
                Mount("/static", StaticFiles(directory=_HERE / "static")),
            ],
            middleware=[Middleware(Guard, door=door)],
        )

    def _answer(self, handler: Answer, *, is_page: bool = False) -> Any:
        """Return an endpoint: what a handler refuses is told in the form that was asked for."""

        def answer(asked: Asked) -> Response:
            try:
                with self._core:
                    found = handler(asked)
            except GlanceError as exc:
                if is_page:
                    page = self._page("refused.html", title="Refused", problems=exc.problems)
                    return HTMLResponse(page, 404 if isinstance(exc, RunError) else 422)
                return JsonAnswer({"problems": [one.to_json() for one in exc.problems]}, 422)
            except Exception:
                # the traceback goes to the terminal, which nobody sees who looks at the page
                logging.getLogger("glance.web").exception("a fault in glance")
                fault = Problem("a fault in glance itself", "the terminal has its traceback")
                if is_page:
                    page = self._page("refused.html", title="Fault", problems=(fault,))
                    return HTMLResponse(page, 500)
                return JsonAnswer({"problems": [fault.to_json()]}, 500)
            if isinstance(found, Response):
                return found
            return HTMLResponse(found) if is_page else JsonAnswer(found)

        async def endpoint(request: Request) -> Response:
            asked = Asked(request.query_params, await request.body())
            return await run_in_threadpool(answer, asked)

        return endpoint

    def _page(self, template: str, **values: Any) -> str:
        return self._templates.get_template(template).render(**values)

    # --- pages -----------------------------------------------------------------------------------

    def home(self, _: Asked) -> Response:
        """Go where there is something to see."""
        return RedirectResponse("/runs" if views.all_runs(self.jobs) else "/new", 303)

    def new(self, asked: Asked) -> str:
        """Show the form of a training, or of a distillation."""
        form = DISTILL if asked.text("method") == DISTILL.command else TRAIN
        families = {
            name: family.default_model for name, family in FAMILIES.items() if family.default_model
        }
        return self._page(
            "new.html", title="New", form=form, families=families, folder=str(self.workspace.root)
        )

    def runs(self, asked: Asked) -> str:
        """Show all runs, of runs/ or of one batch."""
        folder = self._run(asked.text("folder") or RUNS.as_posix())
        found, batches = views.all_runs(self.jobs, folder), views.batches()
        shown = "" if folder == RUNS else folder.as_posix()
        return self._page("runs.html", title="Runs", runs=found, batches=batches, folder=shown)

    def run(self, asked: Asked) -> str:
        """Show a run."""
        path = self._run(asked.text("path"))
        state = views.describe_run(self.jobs, path)
        return self._page("run.html", title=path.as_posix(), run=state)

    def sample(self, asked: Asked) -> str:
        """Show the form of a sampling, and the images of the run."""
        runs = self._finished(asked)
        return self._page("sample.html", title="Sample", form=INFER, runs=runs)

    def compare(self, asked: Asked) -> str:
        """Show what the last comparison of a run says, and the form of another."""
        runs = self._finished(asked)
        found = views.comparison(Path(runs[0])) if runs else None
        return self._page("compare.html", title="Compare", form=COMPARE, runs=runs, found=found)

    # --- what pages read -------------------------------------------------------------------------

    def file(self, asked: Asked) -> Response:
        """Return a file: an image to be shown, anything else to be kept."""
        path = self.workspace.find_file(asked.text("path"))
        if path is None:
            return JsonAnswer({"problems": [{"message": "there is no such file"}]}, 404)
        is_image = path.suffix.lower() in FORMATS
        return FileResponse(
            path,
            media_type=None if is_image else "application/octet-stream",
            filename=path.name,
            content_disposition_type="inline" if is_image else "attachment",
        )

    def thumbnail(self, asked: Asked) -> Response:
        """Return a small copy of an image."""
        path = self.workspace.find_file(asked.text("path"))
        if path is None:
            return JsonAnswer({"problems": [{"message": "there is no such file"}]}, 404)
        return Response(views.shrink(path), media_type="image/webp")

    def schedule(self, asked: Asked) -> Response:
        """Draw a schedule, as `glance schedule --plot` does, beside the base model's own."""
        from glance.core.errors import ScheduleError
        from glance.models.base import BaseModel
        from glance.schedule.plot import draw_schedule
        from glance.schedule.shift import teacher_sigmas

        lists = [parse_list(asked.text(one), name=one).timesteps for one in map(str, Phase)]
        said = {name: text for name in ("model", "family") if (text := asked.text(name))}
        self.workspace.check(TRAIN.fields, said)
        curve: tuple[float, ...] = ()
        try:
            base = BaseModel.resolve(said.get("model"), family=said.get("family"))
            side, spacing = base.family.resolution, base.family.spacing
            curve = teacher_sigmas(base.find_shift().shift, side, side, spacing=spacing)
        except ScheduleError:
            pass  # the base model's own is not known
        with TemporaryDirectory(prefix="glance-") as folder:
            drawn = Path(folder, "schedule.svg")
            draw_schedule(Schedule("chosen", *lists), curve, drawn)
            return Response(drawn.read_bytes(), media_type="image/svg+xml")

    def export(self, asked: Asked) -> Response:
        """Return an export as a file."""
        path, kind = self._run(asked.text("run")), asked.text("kind")
        if kind == "workflow":
            name, content = views.workflow(path)
        else:
            name, content = views.exported(path, kind)
        disposition = f"attachment; filename*=utf-8''{quote(name)}"  # headers are Latin-1
        return Response(
            content,
            media_type="application/octet-stream",
            headers={"content-disposition": disposition},
        )

    def run_state(self, asked: Asked) -> dict[str, Any]:
        """Return what a run's page shows, as it is now."""
        return views.describe_run(self.jobs, self._run(asked.text("path")))

    def job_state(self, asked: Asked) -> dict[str, Any]:
        """Return what is known of a job."""
        return views.describe_job(self.jobs, self._job(asked.text("id")))

    def images(self, asked: Asked) -> dict[str, Any]:
        """Return the images of a run."""
        return {"images": views.run_images(self._run(asked.text("run")))}

    # --- what pages ask for ----------------------------------------------------------------------

    def plan(self, asked: Asked) -> dict[str, Any]:
        """Return what a form would do: what is wrong with it, or what it takes."""
        form, request = self._read(asked)
        planned = _plan(form, request)
        return {
            "rows": _joined(planned.rows),
            "warnings": [one.to_json() for one in planned.warnings],
            "command": shown_command(form.words(request)),
            "schedule": planned.schedule and planned.schedule.to_json(),
            "files": dict(planned.files),
        }

    def start(self, asked: Asked) -> dict[str, Any]:
        """Start what a form says, once it is planned; the same checks as the command's own."""
        form, request = self._read(asked)
        run = _plan(form, request).run
        if form in (TRAIN, DISTILL):
            request = replace(request, run=run)  # the plan's choice, if nobody made one
        words = form.words(request)
        if form is INFER:
            words += ["--with-base"] if asked.document.get("with_base") is True else []
        job = self.jobs.start(words, run=None if run is None else _local(run))
        return {"job": job.id, "run": job.run, "command": shown_command(words)}

    def stop(self, asked: Asked) -> dict[str, Any]:
        """Stop a job as Ctrl-C does."""
        job = self._job(asked.said("id"))
        self.jobs.stop(job)
        return views.describe_job(self.jobs, job)

    def resume(self, asked: Asked) -> dict[str, Any]:
        """Continue a training where it stopped; one that left no run is started again."""
        path = self._run(asked.said("run"))
        run = RunFolder(path)
        before = self.jobs.of_run(path.as_posix(), views.TRAININGS)
        if not is_there(run.manifest) and before is not None:
            words = list(before.words)
        else:
            manifest = load_manifest(run)
            words = [manifest.command.split()[-1], "--resume", path.as_posix()]
        job = self.jobs.start(words, run=path.as_posix())
        return {"job": job.id, "run": job.run, "command": shown_command(words)}

    def remove(self, asked: Asked) -> dict[str, Any]:
        """Remove a run."""
        path = self._idle(asked.said("run"))
        return {"freed_bytes": remove_run(path)}

    def upload(self, asked: Asked) -> Any:
        """Keep an image that was dropped, if it is one that can be trained on."""
        place = self.workspace.uploaded(asked.text("name")[-_MOST_DEEP:], asked.body)
        target = self.workspace.root / place
        is_new = not target.exists()
        if is_new:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(asked.body)
        found = Findings()
        pixels = examine_picture(place, None, found)
        if pixels is None:
            if is_new:
                target.unlink()
                target.parent.rmdir()
            return JsonAnswer({"problems": [one.to_json() for one in found.problems]}, 422)
        return {
            "path": place.as_posix(),
            "width": pixels.width,
            "height": pixels.height,
            "warnings": [one.to_json() for one in found.warnings],
        }

    def record(self, asked: Asked) -> dict[str, Any]:
        """Return what a form says to make an image again that was dropped; it is not kept."""
        name = Path(asked.text("name")[-_MOST_DEEP:].replace("\\", "/")).name or "image.png"
        with TemporaryDirectory(prefix="glance-") as folder:
            path = Path(folder, f"dropped{Path(name).suffix.lower()[:8]}")
            path.write_bytes(asked.body)
            try:
                record = read_record(path)
            except InputError as exc:
                told = (
                    Problem(one.message.replace(str(path), name), one.hint) for one in exc.problems
                )
                raise InputError(told) from exc
        ours = {Path(one).name: one for one in views.finished_runs()}
        run = ours.get(Path(record.run).name) if record.run else None
        return {"document": views.asked_by(record, run=run), "run": run}

    # --- what handlers share ---------------------------------------------------------------------

    def _run(self, said: str) -> Path:
        return self.workspace.find_run(said)

    def _finished(self, asked: Asked) -> list[str]:
        """Return the finished runs, the one that is asked for first."""
        said = asked.text("run")
        return views.finished_runs(self._run(said) if said else None)

    def _idle(self, said: str) -> Path:
        """Return a run in which no job works; raises RunError."""
        path = self._run(said)
        if self.jobs.running(path.as_posix()):
            raise RunError(f"{path}: a job works in it", hint="stop it first")
        return path

    def _job(self, said: str) -> Any:
        job = self.jobs.find(said)
        if job is None:
            raise InputError("there is no such job", hint="reload the page")
        return job

    def _read(self, asked: Asked) -> tuple[Form, Any]:
        form = FORMS.get(asked.said("command"))
        if form is None:
            raise InputError("there is no such form", hint="reload the page")
        return form, form.read(asked.document.get("document"), self.workspace)


@dataclass(frozen=True, slots=True)
class _Planned:
    """What a form would do."""

    rows: Rows
    run: Path | None
    """Where."""
    warnings: Sequence[Problem] = ()
    schedule: Schedule | None = None
    files: Mapping[str, Any] = field(default_factory=dict)
    """SimpleTuner's, by their paths in the run."""


def _plan(form: Form, request: Any) -> _Planned:
    """Plan with the function that the command plans with; raises what that raises."""
    if form in (TRAIN, DISTILL):
        from glance.training.distillation import plan_distillation
        from glance.training.plan import plan_training
        from glance.training.rows import distillation_rows, training_rows

        if form is TRAIN:
            plan = plan_training(request)
            rows = training_rows(plan)
        else:
            taught = plan_distillation(request)
            plan, rows = taught.training, distillation_rows(taught)
        return _Planned(rows, plan.run.path, plan.warnings, plan.schedule, plan.files)
    if form is INFER:
        from glance.sampling.plan import plan_generation, sampling_rows

        generation = plan_generation(request)
        notes = [*map(Problem, generation.notes)]
        return _Planned(sampling_rows(generation), request.run, notes, generation.schedule)
    from glance.evaluation.compare import comparison_rows, foresee, plan_comparison

    comparison = plan_comparison(request)
    notes = [*map(Problem, comparison.generation.notes)]
    rows = comparison_rows(comparison, foresee(comparison))
    return _Planned(rows, comparison.request.run, notes)


def _joined(rows: Rows) -> list[dict[str, Any]]:
    """Return rows whose further lines stand below the one that they go on with."""
    found: list[dict[str, Any]] = []
    for name, text in rows:
        if name or not found:
            found.append({"name": name.strip(), "lines": [text]})
        else:
            found[-1]["lines"].append(text)
    return found


def _local(path: Path) -> str:
    return path.resolve().relative_to(Path.cwd().resolve()).as_posix()
