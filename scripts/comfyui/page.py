"""`python -m scripts.comfyui.page FOLDER`: open what glance exports on ComfyUI's own page.

The page is that of the package comfyui-frontend-package, in a real browser. In place of ComfyUI's
server stands a stub that knows the nodes which were recorded of one, and the files which the
workflows name. FOLDER gets a picture of every family's graph.
"""

import argparse
import base64
import json
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from io import BytesIO
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from PIL import Image
from playwright.sync_api import Browser, Route, WebSocketRoute, sync_playwright

from glance.core.device import Device, Precision
from glance.core.phase import Phase
from glance.interop.comfyui import ComfyExport, plan_comfyui, render_workflow
from glance.interop.export import Source
from glance.models.families import FAMILIES, Family
from glance.runs.folder import RunFolder
from glance.runs.manifest import Manifest, PhaseRecord, PhaseState, SampleRecord, record_schedule
from glance.runs.settings import resolve_train_settings
from glance.sampling.comfyui import Graph, build_workflow
from glance.sampling.provenance import Record, ScheduleUse, write_image
from glance.schedule.lists import PRESETS

FIXTURE: Final = Path(__file__).parents[2] / "tests/fixtures/comfyui-nodes.json"
PACKAGE: Final = "comfyui_frontend_package"
ADDRESS: Final = "http://127.0.0.1:8188"
"""ComfyUI's own; nobody listens there: every request is answered before it leaves the browser."""
BROWSERS: Final = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
_TITLE_BAR: Final = 30
_NO_MORE: Final = {"offset": 0, "limit": 200, "total": 0, "has_more": False}
_SETTINGS: Final = {
    "Comfy.TutorialCompleted": True,  # else it opens its templates first
    "Comfy.Validation.Workflows": True,
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False,
}
_EMPTY_LISTS: Final = (
    *("/api/extensions", "/api/embeddings", "/api/userdata", "/api/experiment/models"),
    *("/templates/index.json", "/internal/files/input", "/internal/files/output"),
)
_EMPTY_OBJECTS: Final = (
    *("/api/i18n", "/api/features", "/api/history", "/api/workflow_templates"),
    *("/api/global_subgraphs", "/api/node_replacements", "/internal/folder_paths"),
)

# --- what is opened ------------------------------------------------------------------------------


def plan_export(family: Family, *, prompt: str, **asked: Any) -> ComfyExport:
    """Return the export of a run of a family's default model; `asked` are sample settings."""
    manifest = Manifest(
        sample=SampleRecord(
            image="data/lighthouse.png",
            caption="data/lighthouse.txt",
            width=1024,
            height=1024,
            sha256="0",
        ),
        settings=resolve_train_settings(family=family.name, device=Device.CUDA),
        base_model="unknown",
        schedule=record_schedule(PRESETS["guide"].schedule),
        versions={},
        phases={phase: PhaseRecord(state=PhaseState.DONE) for phase in Phase},
        pair_id="0123456789abcdef",
    )
    run = RunFolder(Path("runs/lighthouse"))
    source = Source(run, manifest, family, manifest.resolve_schedule())
    return plan_comfyui(source, prompt=prompt, **asked)


def render_picture(export: ComfyExport) -> bytes:
    """Return a PNG as `glance infer` writes it: another picture, the same metadata."""
    job = export.job
    record = Record(
        versions={},
        family=job.family.name,
        model=job.family.default_model,
        base_revision="0" * 40,
        device=Device.CUDA,
        dtype=Precision.BF16,
        schedule=ScheduleUse.of(job.schedule),
        loras=(),
        settings=job.settings,
    )
    with TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png"
        picture = Image.new("RGB", (64, 64), "navy")
        write_image(picture, path, record, workflow=build_workflow(job))
        return path.read_bytes()


# --- in place of the server ----------------------------------------------------------------------


class Stub:
    """What ComfyUI's page asks its server for, answered from a recording."""

    def __init__(self, graphs: Iterable[Graph]) -> None:
        """Offer each file that a graph names, and another one before it."""
        package = find_spec(PACKAGE)
        if package is None or package.origin is None:
            raise SystemExit("there is no comfyui-frontend-package: uv sync")
        self._static = Path(package.origin).parent / "static"
        recorded = json.loads(FIXTURE.read_text(encoding="utf-8"))
        choices = _list_choices(graphs)
        nodes, widgets = recorded["nodes"], recorded["widgets"]
        for kinds in (nodes, widgets):  # FLUX.2's is younger than the recording, and as SD3's is
            kinds["EmptyFlux2LatentImage"] = kinds["EmptySD3LatentImage"]
        described = {
            name: _describe_node(name, node, widgets[name], choices) for name, node in nodes.items()
        }
        self._answers: Mapping[str, Any] = {
            "/api/object_info": described,
            "/api/settings": _SETTINGS,
            "/api/users": {"storage": "server", "migrated": True},
            "/api/system_stats": _describe_system(recorded["comfyui"]),
            "/api/queue": {"queue_running": [], "queue_pending": []},
            "/api/jobs": {"jobs": [], "pagination": _NO_MORE},
            **{path: [] for path in _EMPTY_LISTS},
            **{path: {} for path in _EMPTY_OBJECTS},
        }

    def answer(self, route: Route) -> None:
        """Answer a request of the page."""
        request = route.request
        path = unquote(urlsplit(request.url).path)
        file = self._static / (path.lstrip("/") or "index.html")
        if not request.url.startswith(ADDRESS):
            route.abort()  # it asks ComfyUI's makers for news
        elif request.method == "POST" and path == "/api/prompt":
            route.fulfill(json={"prompt_id": "1", "number": 1, "node_errors": {}})
        elif request.method == "POST":
            route.fulfill(json={})
        elif path in self._answers:
            route.fulfill(json=self._answers[path])
        elif path == "/api/view":
            route.fulfill(body=_draw(), content_type="image/png")
        elif file.is_file():
            route.fulfill(path=file)
        else:
            route.fulfill(status=404, body="")

    def greet(self, socket: WebSocketRoute) -> None:
        """Answer the page's socket as an idle server does."""
        status = {"exec_info": {"queue_remaining": 0}}
        socket.send(json.dumps({"type": "status", "data": {"status": status, "sid": "stub"}}))
        socket.send(json.dumps({"type": "feature_flags", "data": {}}))


def _list_choices(graphs: Iterable[Graph]) -> dict[tuple[str, str], set[str]]:
    """Return what is typed into each input that a list is offered for, by node and input."""
    choices = defaultdict(set)
    for node in (node for graph in graphs for node in graph.nodes):
        for port in node.shape.inputs:
            value = node.inputs.get(port.name)
            if port.type == "COMBO" and isinstance(value, str):
                choices[node.kind, port.name].add(value)
    return choices


def _describe_node(
    name: str,
    recorded: Mapping[str, Any],
    widgets: Mapping[str, Mapping[str, Any]],
    choices: Mapping[tuple[str, str], set[str]],
) -> dict[str, Any]:
    """Return a node as GET /object_info does."""
    parts: dict[str, dict[str, Any]] = {}
    for part, ports in recorded["input"].items():
        parts[part] = {}
        for port, kind in ports.items():
            options = dict(widgets.get(port, {}))
            if kind == "COMBO":
                known = options.get("options", [])
                ours = sorted(choices.get((name, port), set()) - set(known))
                options["options"] = [*(known or ["another.safetensors"]), *ours]
            parts[part][port] = [kind, options]
    return {
        "input": parts,
        "input_order": {part: list(ports) for part, ports in parts.items()},
        "output": recorded["output"],
        "output_is_list": [False] * len(recorded["output"]),
        "output_name": recorded["output_name"],
        "name": name,
        "display_name": name,
        "description": "",
        "python_module": "nodes",
        "category": "recorded",
        "output_node": name == "SaveImage",
    }


def _describe_system(version: str) -> dict[str, Any]:
    system = {
        "os": "linux",
        "ram_total": 1 << 36,
        "ram_free": 1 << 35,
        "comfyui_version": version,
        "required_frontend_version": "",
        "python_version": "3.12",
        "pytorch_version": "2.13.0",
        "embedded_python": False,
        "argv": ["main.py"],
    }
    return {"system": system, "devices": []}


def _draw() -> bytes:
    made = BytesIO()
    Image.radial_gradient("L").save(made, "PNG")
    return made.getvalue()


# --- the page ------------------------------------------------------------------------------------

_DROP: Final = """({name, type, data}) => {
  const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], name, {type}));
  document.querySelector('#graph-canvas').dispatchEvent(
    new DragEvent('drop', {dataTransfer, bubbles: true, cancelable: true}));
}"""
_IS_OPEN: Final = """(name) => {
  const manager = window.app?.extensionManager;
  const active = manager?.workflow?.activeWorkflow;
  return active && !manager.spinner && (name === null || active.filename === name);
}"""
_READ: Final = """() => {
  const box = ({pos, size}) => [pos[0], pos[1], pos[0] + size[0], pos[1] + size[1]];
  const visible = (one) => one.checkVisibility() && one.innerText.trim();
  const said = '[data-testid=error-overlay], [data-testid=toast], [role=dialog], [role=alert]';
  const faults = [...document.querySelectorAll(said)].filter(visible)
    .map((one) => 'the page says: ' + one.innerText.trim().replace(/\\s+/g, ' '));
  const nodes = window.app.rootGraph.nodes.map((node) => {
    const name = `${node.type} ${node.id}`;
    if (!(node.type in LiteGraph.registered_node_types)) faults.push(`${name} is missing`);
    if (node.has_errors) faults.push(`${name} is red`);
    for (const input of node.inputs ?? [])
      if (input.hasErrors) faults.push(`${name}: the input ${input.name} is red`);
    const widgets = node.widgets ?? [];
    for (const {type, name: widget, value, options} of widgets)
      if (type === 'combo' && Array.isArray(options.values) && !options.values.includes(value))
        faults.push(`${name}: ${widget} has no ${value}`);
    const values = Object.fromEntries(widgets.map(({name, value}) => [name, value]));
    return {id: node.id, kind: node.type, title: node.title, box: box(node), values};
  });
  const groups = window.app.rootGraph.groups.map((one) => ({title: one.title, box: box(one)}));
  return {faults, nodes, groups};
}"""

_EXTENT: Final = """() => {
  const {nodes, groups} = window.app.rootGraph;
  const {offset, scale} = window.app.canvas.ds;
  const all = [...nodes, ...groups];
  const least = (axis) => Math.min(...all.map(({pos}) => pos[axis])) - 50;
  const most = (axis) => Math.max(...all.map(({pos, size}) => pos[axis] + size[axis])) + 20;
  const [left, top] = [0, 1].map((axis) => (least(axis) + offset[axis]) * scale);
  const [width, height] = [0, 1].map((axis) => (most(axis) - least(axis)) * scale);
  const canvas = document.querySelector('#graph-canvas').getBoundingClientRect();
  return {x: left + canvas.left, y: top + canvas.top, width, height};
}"""

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Shown:
    """What the page shows of a workflow."""

    faults: tuple[str, ...]
    """Missing nodes, what is drawn red, values that are not offered, messages."""
    nodes: Mapping[int, Mapping[str, Any]]
    """By number: `kind`, `title`, `box` and the `values` of the widgets."""
    groups: Mapping[str, Box]

    def differs(self, graph: Graph) -> Iterator[str]:
        """Yield which nodes and values are not the graph's, but for prompts: they are escaped."""
        for node in graph.nodes:
            shown = self.nodes.get(node.id, {})
            if (shown.get("kind"), shown.get("title")) != (node.kind, node.title):
                yield f"node {node.id} is {shown.get('kind')}, not {node.kind}"
                continue
            for name in sorted({*node.shape.widgets} - {"text", "prompt"}):
                value = shown["values"].get(name)
                if value != node.inputs[name]:
                    yield f"node {node.id}: {name} is {value}, not {node.inputs[name]}"

    def untidy(self, graph: Graph) -> Iterator[str]:
        """Yield which nodes lie upon each other, or outside of their group."""
        boxes = {number: node["box"] for number, node in self.nodes.items()}
        for one, other in combinations(boxes, 2):
            (left, top, right, bottom), (left2, top2, right2, bottom2) = boxes[one], boxes[other]
            apart = right <= left2 or right2 <= left
            if not apart and top - _TITLE_BAR < bottom2 and top2 - _TITLE_BAR < bottom:
                yield f"nodes {one} and {other} overlap"
        for node in graph.nodes:
            left, top, right, bottom = boxes[node.id]
            around = self.groups.get(node.group, (0, 0, 0, 0))
            across = around[0] <= left and right <= around[2]
            if not (across and around[1] <= top and bottom <= around[3]):
                yield f"node {node.id} is not in {node.group}"


class ComfyPage:
    """ComfyUI's page in a browser, with a stub behind it."""

    def __init__(self, browser: Browser, stub: Stub, *, width: int = 900) -> None:
        """Open the page, half as high as wide; it shows the workflow that it begins with."""
        self._context = browser.new_context(viewport={"width": width, "height": width // 2})
        self._context.route("**/*", stub.answer)
        self._context.route_web_socket("**/ws*", stub.greet)
        self._page = self._context.new_page()
        self._page.goto(ADDRESS)
        self._page.wait_for_function(_IS_OPEN, arg=None)

    def drop(self, name: str, content: bytes) -> Shown:
        """Drop a file on the page, and return what it then shows."""
        kind = "image/png" if name.endswith(".png") else "application/json"
        data = base64.b64encode(content).decode()
        self._page.evaluate(_DROP, {"name": name, "type": kind, "data": data})
        self._page.wait_for_function(_IS_OPEN, arg=Path(name).stem)
        shown = self._page.evaluate(_READ)
        return Shown(
            faults=tuple(shown["faults"]),
            nodes={int(node.pop("id")): node for node in shown["nodes"]},
            groups={group["title"]: tuple(group["box"]) for group in shown["groups"]},
        )

    def run(self) -> dict[str, Any]:
        """Run what is shown, and return what the page sends to POST /prompt as `prompt`."""
        with self._page.expect_response(f"{ADDRESS}/api/prompt") as answered:
            self._page.keyboard.press("Control+Enter")
        prompt: dict[str, Any] = json.loads(answered.value.request.post_data or "")["prompt"]
        return prompt

    def picture(self) -> Image.Image:
        """Return a picture of the graph."""
        self._page.wait_for_timeout(500)  # until it has moved into view
        taken = self._page.screenshot(clip=self._page.evaluate(_EXTENT))
        return Image.open(BytesIO(taken)).convert("RGB").quantize(256, dither=Image.Dither.NONE)

    def close(self) -> None:
        """Close it, once the last request is answered."""
        self._context.unroute_all(behavior="wait")
        self._context.close()


def compare(prompt: Mapping[str, Any], graph: Graph) -> Iterator[str]:
    """Yield in what the page's prompt differs from the graph."""
    ours = graph.to_api()
    for number in sorted({*ours, *prompt}, key=int):
        theirs, wanted = prompt.get(number, {}), ours.get(number, {})
        for part in ("class_type", "_meta", "inputs"):
            if theirs.get(part) != wanted.get(part):
                yield f"node {number}: {part} is {theirs.get(part)}, not {wanted.get(part)}"


# --- the whole -----------------------------------------------------------------------------------


def main() -> None:
    """Open every family's exports, and say what the page made of them; exit with 1 for a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="gets a picture of every family's graph")
    parser.add_argument("--browser", help=f"its program; default: {', '.join(BROWSERS)}")
    asked = parser.parse_args()
    program = asked.browser or next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        raise SystemExit(
            "no browser: apt-get install -y --no-install-recommends chromium-headless-shell"
        )
    asked.folder.mkdir(parents=True, exist_ok=True)
    exports = {
        name: plan_export(family, prompt="a lighthouse at dusk", seed=7)
        for name, family in FAMILIES.items()
    }
    stub = Stub(build_workflow(export.job) for export in exports.values())
    faults = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = ComfyPage(browser, stub, width=2600)
        say(f"ComfyUI's page {version(PACKAGE)}, in {browser.version}")
        for name, export in exports.items():
            found = list(prove_export(page, name, export, asked.folder))
            say(f"  {name}: {', '.join(found) or 'page, API and picture show and send the graph'}")
            faults += found
        page.close()
        browser.close()
    raise SystemExit(1 if faults else 0)


def prove_export(page: ComfyPage, name: str, export: ComfyExport, folder: Path) -> Iterator[str]:
    """Open an export in its three forms, keep a picture of the first, and yield what is wrong."""
    graph, files = build_workflow(export.job), render_workflow(export)
    opened = {
        f"{name}-page.json": files["workflow.json"],
        f"{name}-api.json": files["workflow-api.json"],
        f"{name}-picture.png": render_picture(export),
    }
    for kind, content in opened.items():
        shown = page.drop(kind, content)
        found = [*shown.faults, *shown.differs(graph)]
        if kind != f"{name}-api.json":  # of that the page makes a layout of its own
            found += shown.untidy(graph)
        if kind == f"{name}-page.json":
            page.picture().save(folder / f"{name}.png", optimize=True)
        found += compare(page.run(), graph)
        yield from (f"{kind}: {fault}" for fault in found)


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
