"""A graph as ComfyUI's page saves it: every node with its place, in groups from left to right."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from glance.sampling.comfyui.graph import Graph, Link, Node, Value
from glance.sampling.comfyui.nodes import Port

_VERSION: Final = 0.4  # of the page's format
_WIDTH: Final = 340
_GAP: Final = 40
_TITLE: Final = 50  # pixels of a group above its nodes
_TALL: Final = {"text": 130, "prompt": 130, "sigmas": 70}
"""Pixels that a text of several lines takes."""
_PROMPTS: Final = ("text", "prompt")
_PREVIEW: Final = {"LoadImage": 220, "SaveImage": 220}
"""Pixels by which the page lengthens a node that shows a picture."""
_COLOURS: Final = ("#3f789e", "#a1309b", "#b58b2a", "#8A8", "#88A")


def lay_out_page(graph: Graph, *, note: str = "") -> dict[str, Any]:
    """Return the JSON that ComfyUI's page opens with a tidy layout.

    Groups stand side by side in the order in which the graph entered them, their nodes below each
    other; `note`, Markdown, stands before them.
    """
    links = list(_links(graph))
    places = dict(_places(graph, left=_WIDTH + 2 * _GAP if note else 0))
    nodes = [_page_node(node, order, links, places) for order, node in enumerate(graph.nodes)]
    if note:
        nodes.append(_note(note, len(nodes) + 1))
    return {
        "last_node_id": len(nodes),
        "last_link_id": len(links),
        "nodes": nodes,
        "links": links,
        "groups": list(_groups(graph, places)),
        "config": {},
        "extra": {},
        "version": _VERSION,
    }


def _links(graph: Graph) -> Iterator[list[Any]]:
    """Yield [id, from node, its output, to node, its input, type]."""
    number = 0
    by_id = {node.id: node for node in graph.nodes}
    for node in graph.nodes:
        for slot, port in enumerate(_sockets(node)):
            value = node.inputs.get(port.name)
            if isinstance(value, Link):
                number += 1
                kind = by_id[value.node].shape.outputs[value.slot].type
                yield [number, value.node, value.slot, node.id, slot, kind]


def _sockets(node: Node) -> list[Port]:
    """Return the inputs that links go to; the others are widgets."""
    return [port for port in node.shape.inputs if not port.is_widget]


def _page_node(
    node: Node, order: int, links: list[list[Any]], places: Mapping[int, tuple[int, int]]
) -> dict[str, Any]:
    into = {link[4]: link[0] for link in links if link[3] == node.id}
    out_of = [(link[2], link[0]) for link in links if link[1] == node.id]
    properties: dict[str, Any] = {"Node name for S&R": node.kind}
    wanted = [file for file in node.files if file.url is not None]
    if wanted:  # the page offers to fetch what is missing
        properties["models"] = [
            {"name": file.name, "url": file.url, "directory": file.folder} for file in wanted
        ]
    return {
        "id": node.id,
        "type": node.kind,
        "title": node.title,
        "pos": list(places[node.id]),
        "size": [_WIDTH, _height(node)],
        "flags": {},
        "order": order,
        "mode": 0,
        "inputs": [
            {"name": port.name, "type": port.type, "link": into.get(slot)}
            for slot, port in enumerate(_sockets(node))
        ],
        "outputs": [
            {
                "name": port.name,
                "type": port.type,
                "slot_index": slot,
                "links": [link for from_slot, link in out_of if from_slot == slot],
            }
            for slot, port in enumerate(node.shape.outputs)
        ],
        "properties": properties,
        "widgets_values": [
            *(_typed(port, node.inputs[port.name]) for port in node.shape.inputs if port.is_widget),
            *node.shape.extra_widgets,
        ],
    }


def _typed(port: Port, value: Value | Link) -> Value | Link:
    """Return what a widget holds: in a prompt the page, unlike the API, reads {a|b} as a choice."""
    if port.name in _PROMPTS and isinstance(value, str):
        return re.sub(r"([{|}])", r"\\\1", value)
    return value


def _height(node: Node) -> int:
    sockets = max(len(_sockets(node)), len(node.shape.outputs))
    widgets = [port.name for port in node.shape.inputs if port.is_widget]
    return (
        10
        + 20 * sockets
        + sum(_TALL.get(name, 28) for name in widgets)
        + 28 * len(node.shape.extra_widgets)
        + _PREVIEW.get(node.kind, 0)
    )


def _places(graph: Graph, *, left: int) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yield each node's upper left corner, in pixels."""
    tops: dict[str, int] = {}
    for node in graph.nodes:
        top = tops.setdefault(node.group, _TITLE)
        column = list(tops).index(node.group)
        yield node.id, (left + column * (_WIDTH + 2 * _GAP), top)
        tops[node.group] = top + _height(node) + _GAP


def _groups(graph: Graph, places: Mapping[int, tuple[int, int]]) -> Iterator[dict[str, Any]]:
    names = list(dict.fromkeys(node.group for node in graph.nodes))
    for number, name in enumerate(names):
        nodes = [node for node in graph.nodes if node.group == name]
        bottom = max(places[node.id][1] + _height(node) for node in nodes)
        left = places[nodes[0].id][0]
        yield {
            "id": number + 1,
            "title": name,
            "bounding": [left - _GAP // 2, -_GAP // 2, _WIDTH + _GAP, bottom + _GAP],
            "color": _COLOURS[number % len(_COLOURS)],
            "flags": {},
        }


def _note(text: str, number: int) -> dict[str, Any]:
    return {
        "id": number,
        "type": "MarkdownNote",
        "title": "glance",
        "pos": [0, _TITLE],
        "size": [_WIDTH, 40 + 22 * (text.count("\n") + 1 + len(text) // 60)],
        "flags": {},
        "order": number - 1,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "properties": {},
        "widgets_values": [text],
        "color": "#222",
        "bgcolor": "#000",
    }
