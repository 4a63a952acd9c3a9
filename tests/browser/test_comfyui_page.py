"""Does ComfyUI's own page show what glance exports, and send it as it is?"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("comfyui_frontend_package", reason="ComfyUI's page; uv sync brings it")
pytest.importorskip("playwright", reason="uv sync brings it")

from glance.interop.comfyui import ComfyExport, render_workflow
from glance.models.families import FAMILIES
from glance.sampling.comfyui import build_workflow
from scripts.comfyui.page import ComfyPage, Stub, compare, plan_export, render_picture

pytestmark = pytest.mark.browser

PROMPT = r"""a {red|blue} house // "by" the \sea/* at 5:00 */ \{old} \\{a|b} 家 ///
(grey:1.2) <Prompt Start> https://example.com/\\"""
"""What the page would read otherwise: choices, comments, escapes."""
FINE = {"slow_guidance": 3.255, "fast_guidance": 1.115, "slow_scale": 0.12345, "fast_scale": -0.5}
"""Finer than the steps of the page's widgets."""
SEED = 2**53 - 1
families = pytest.mark.parametrize("name", FAMILIES)


def plan(name: str) -> ComfyExport:
    return plan_export(FAMILIES[name], prompt=PROMPT, seed=SEED, **FINE)


@pytest.fixture(scope="module")
def comfyui(browser: Any) -> Iterator[ComfyPage]:
    page = ComfyPage(browser, Stub(build_workflow(plan(name).job) for name in FAMILIES))
    yield page
    page.close()


@families
def test_the_exported_page_opens_tidily_and_runs_as_it_is(comfyui: ComfyPage, name: str) -> None:
    export = plan(name)
    graph = build_workflow(export.job)

    shown = comfyui.drop(f"{name}-page.json", render_workflow(export)["workflow.json"])

    assert shown.faults == ()
    assert [*shown.differs(graph), *shown.untidy(graph)] == []
    assert list(compare(comfyui.run(), graph)) == []


@families
def test_an_image_dropped_on_the_page_gives_its_workflow(comfyui: ComfyPage, name: str) -> None:
    export = plan(name)
    graph = build_workflow(export.job)

    shown = comfyui.drop(f"{name}-image.png", render_picture(export))

    assert shown.faults == ()
    assert [*shown.differs(graph), *shown.untidy(graph)] == []
    assert list(compare(comfyui.run(), graph)) == []
    (noise,) = [node for node in shown.nodes.values() if node["kind"] == "RandomNoise"]
    assert noise["values"]["control_after_generate"] == "fixed"  # the next image has it, too


@families
def test_the_page_opens_what_is_for_the_api_too(comfyui: ComfyPage, name: str) -> None:
    export = plan_export(FAMILIES[name], prompt="a lighthouse", seed=SEED, slow_scale=0.75)

    shown = comfyui.drop(f"{name}-api.json", render_workflow(export)["workflow-api.json"])

    assert shown.faults == ()
    assert list(shown.differs(build_workflow(export.job))) == []
    assert list(compare(comfyui.run(), build_workflow(export.job))) == []


def test_what_the_page_cannot_show_is_seen_here(comfyui: ComfyPage) -> None:
    """Else the others would pass with a page that says nothing of anything."""
    page = json.loads(render_workflow(plan("flux"))["workflow.json"])
    kinds = {node["type"]: node for node in page["nodes"]}
    kinds["ManualSigmas"]["type"] = "NoSuchNode"
    kinds["KSamplerSelect"]["widgets_values"] = ["no-such-sampler"]
    kinds["VAELoader"]["widgets_values"] = ["no-such-file.safetensors"]

    shown = comfyui.drop("broken.json", json.dumps(page).encode())

    assert len(list(shown.differs(build_workflow(plan("flux").job)))) == 3
    for fault in ("NoSuchNode", "no-such-sampler", "no-such-file", "the page says"):
        assert any(fault in one for one in shown.faults), fault
