"""The page's JSON: the same workflow, laid out so that nothing hides anything."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any, NamedTuple

import pytest
from fakes.comfyui import WIDGETS, every_way, make_job, ports, recorded_nodes

from glance.models.families import FAMILIES
from glance.models.families.family import ComfyFile
from glance.sampling.comfyui import Graph, build_workflow, lay_out_page

TITLE_BAR = 30  # LiteGraph draws it above a node's position
SOCKET, WIDGET, PREVIEW = 20, 24, 220  # pixels high, at least; setSizeForImage's minimum
EXTRA = {"RandomNoise": ["fixed"], "LoadImage": ["image"]}
"""What the page's own widgets keep behind a node's: control_after_generate, the upload button."""
Page = dict[str, Any]


class Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: "Box") -> bool:
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom

    def holds(self, other: "Box") -> bool:
        across = self.left <= other.left and other.right <= self.right
        return across and self.top <= other.top and other.bottom <= self.bottom


def laid_out(name: str, **changes: Any) -> tuple[Graph, Page]:
    graph = build_workflow(make_job(name, **changes))
    return graph, lay_out_page(graph, note="# A note\n\nof two paragraphs.\n" * 3)


def frame(node: Mapping[str, Any]) -> Box:
    """Return what a node covers, its title bar with it."""
    (left, top), (width, height) = node["pos"], node["size"]
    return Box(left, top - TITLE_BAR, left + width, top + height)


def bounding(group: Mapping[str, Any]) -> Box:
    left, top, width, height = group["bounding"]
    return Box(left, top, left + width, top + height)


def to_api(page: Page) -> dict[str, Any]:
    """Return what the page would send to POST /prompt: values by place, links by the table."""
    sources = {link[0]: [str(link[1]), link[2]] for link in page["links"]}
    return {
        str(node["id"]): {
            "class_type": node["type"],
            "inputs": {
                **typed_in(node),
                **{
                    socket["name"]: sources[socket["link"]]
                    for socket in node["inputs"]
                    if socket["link"] is not None
                },
            },
        }
        for node in page["nodes"]
        if node["type"] != "MarkdownNote"  # the server has no such node
    }


def typed_in(node: Mapping[str, Any]) -> dict[str, Any]:
    known = ports(recorded_nodes()[node["type"]])
    names = [name for name, kind in known.items() if kind in WIDGETS]
    values, extra = node["widgets_values"][: len(names)], node["widgets_values"][len(names) :]
    assert extra == EXTRA.get(node["type"], [])
    return dict(zip(names, values, strict=True))


def ends(page: Page) -> Iterator[tuple[int, str]]:
    """Yield each link's id and type as the nodes at its two ends have them."""
    for node in page["nodes"]:
        for socket in node["inputs"]:
            if socket["link"] is not None:
                yield socket["link"], socket["type"]
        for socket in node["outputs"]:
            yield from ((link, socket["type"]) for link in socket["links"])


@pytest.mark.parametrize(("name", "asked"), every_way(), ids=str)
def test_the_page_sends_the_workflow(name: str, asked: dict[str, Any]) -> None:
    graph, page = laid_out(name, **asked)

    expected = graph.to_api()
    for node in expected.values():
        del node["_meta"]
    assert to_api(page) == expected


def test_braces_in_a_prompt_are_no_choice_on_the_page() -> None:
    """The page, unlike the API, takes {a|b} for one of both, and a backslash before it for text."""
    graph, page = laid_out("flux", prompt="a {red|blue} house")

    (text,) = [node for node in page["nodes"] if node["type"] == "CLIPTextEncode"]
    (sent,) = [n for n in graph.to_api().values() if n["class_type"] == "CLIPTextEncode"]
    assert text["widgets_values"] == [r"a \{red\|blue\} house"]
    assert sent["inputs"]["text"] == "a {red|blue} house"


@pytest.mark.parametrize("name", FAMILIES)
def test_titles_are_the_same_in_both(name: str) -> None:
    graph, page = laid_out(name)

    shown = {str(node["id"]): node["title"] for node in page["nodes"][:-1]}
    assert shown == {number: node["_meta"]["title"] for number, node in graph.to_api().items()}


@pytest.mark.parametrize(("name", "asked"), every_way(), ids=str)
def test_links_are_the_same_at_both_ends(name: str, asked: dict[str, Any]) -> None:
    _, page = laid_out(name, **asked)

    nodes = {node["id"]: node for node in page["nodes"]}
    for link, source, output, target, socket, kind in page["links"]:
        assert link in nodes[source]["outputs"][output]["links"]
        assert nodes[target]["inputs"][socket]["link"] == link
        assert nodes[source]["outputs"][output]["type"] == kind
    twice = [(link[0], link[5]) for link in page["links"]] * 2
    assert Counter(ends(page)) == Counter(twice)


@pytest.mark.parametrize("name", FAMILIES)
def test_ids_are_unique_and_the_last_ones_are_told(name: str) -> None:
    _, page = laid_out(name)

    for items, last in (
        ([node["id"] for node in page["nodes"]], page["last_node_id"]),
        ([link[0] for link in page["links"]], page["last_link_id"]),
    ):
        assert len(set(items)) == len(items)
        assert max(items) == last
    assert [node["order"] for node in page["nodes"]] == list(range(len(page["nodes"])))


@pytest.mark.parametrize(("name", "asked"), every_way(), ids=str)
def test_no_node_hides_another(name: str, asked: dict[str, Any]) -> None:
    _, page = laid_out(name, **asked)

    pairs = combinations(page["nodes"], 2)
    assert [(a["id"], b["id"]) for a, b in pairs if frame(a).meets(frame(b))] == []


@pytest.mark.parametrize("name", FAMILIES)
def test_a_picture_that_is_shown_has_its_place(name: str) -> None:
    """Else the page lengthens its node, as soon as it is opened, over the one below."""
    _, page = laid_out(name)

    shown = [node for node in page["nodes"] if node["type"] in ("LoadImage", "SaveImage")]
    for node in shown:
        sockets = max(len(node["inputs"]), len(node["outputs"]))
        above = SOCKET * sockets + WIDGET * len(node["widgets_values"])
        assert node["size"][1] >= above + PREVIEW
    assert len(shown) == 1 + FAMILIES[name].edits


@pytest.mark.parametrize(("name", "asked"), every_way(), ids=str)
def test_groups_hold_their_nodes_and_no_others(name: str, asked: dict[str, Any]) -> None:
    graph, page = laid_out(name, **asked)

    groups = {group["title"]: bounding(group) for group in page["groups"]}
    for node, shown in zip(graph.nodes, page["nodes"], strict=False):
        around = [title for title, box in groups.items() if box.meets(frame(shown))]
        assert around == [node.group]
        assert groups[node.group].holds(frame(shown))
    assert not any(a.meets(b) for a, b in combinations(groups.values(), 2))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_note_stands_before_all_groups(name: str) -> None:
    _, page = laid_out(name)

    note = page["nodes"][-1]
    assert (note["type"], note["widgets_values"]) == (
        "MarkdownNote",
        ["# A note\n\nof two paragraphs.\n" * 3],
    )
    assert frame(note).right < min(bounding(group).left for group in page["groups"])


def test_without_a_note_there_is_none() -> None:
    page = lay_out_page(build_workflow(make_job("flux")))

    assert {node["type"] for node in page["nodes"]}.isdisjoint({"MarkdownNote"})
    assert min(node["pos"][0] for node in page["nodes"]) == 0


@pytest.mark.parametrize("name", FAMILIES)
def test_the_page_offers_to_fetch_every_file_of_the_default_model(name: str) -> None:
    _, page = laid_out(name)

    models = [model for node in page["nodes"] for model in node["properties"].get("models", [])]
    facts = FAMILIES[name].comfyui
    opened = (facts.model, *facts.text_encoders, *filter(None, [facts.vae]))
    assert [model["name"] for model in models] == [file.name for file in opened]
    for model in models:
        assert set(model) == {"name", "url", "directory"}
        assert model["url"].startswith("https://huggingface.co/")
        assert model["url"].endswith("/" + model["name"])


@pytest.mark.parametrize("name", FAMILIES)
def test_what_a_node_offers_to_fetch_is_what_it_opens(name: str) -> None:
    _, page = laid_out(name)

    for node in page["nodes"]:
        offered = [model["name"] for model in node["properties"].get("models", [])]
        opened = [value for value in node["widgets_values"] if value in offered]
        assert opened == offered


def test_an_unknown_model_is_not_offered() -> None:
    mine = ComfyFile("mine.safetensors", "diffusion_models")

    page = lay_out_page(build_workflow(replace(make_job("flux"), model=mine)))

    loader = next(node for node in page["nodes"] if node["type"] == "UNETLoader")
    assert loader["widgets_values"][0] == "mine.safetensors"
    assert "models" not in loader["properties"]


@pytest.mark.parametrize(("name", "asked"), every_way(), ids=str)
def test_the_page_survives_json(name: str, asked: dict[str, Any]) -> None:
    _, page = laid_out(name, **asked)

    assert json.loads(json.dumps(page)) == page
