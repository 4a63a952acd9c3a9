"""A graph of ComfyUI's nodes: built in the order of the work, written as API JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from glance.models.families.comfyui import ComfyFile
from glance.sampling.comfyui.nodes import NODES, NodeKind

Value = str | int | float


@dataclass(frozen=True, slots=True)
class Link:
    """An output of a node, as another one's input."""

    node: int
    slot: int


@dataclass(frozen=True, slots=True)
class Node:
    """One node: values and links by the names of its inputs."""

    id: int
    kind: str
    title: str
    group: str
    inputs: Mapping[str, Value | Link]
    files: tuple[ComfyFile, ...] = ()
    """The model files that it opens, for whoever has to fetch them."""

    @property
    def shape(self) -> NodeKind:
        """The inputs and outputs that nodes of its kind have."""
        return NODES[self.kind]


@dataclass(slots=True)
class Graph:
    """Nodes in the order in which they were added: each after those that it takes from."""

    nodes: list[Node] = field(default_factory=list)
    group: str = ""
    """Where the next nodes stand on the page."""

    def add(
        self,
        kind: str,
        *,
        title: str = "",
        files: tuple[ComfyFile, ...] = (),
        **inputs: Value | Link,
    ) -> tuple[Link, ...]:
        """Add a node and return its outputs; raises KeyError for an input that it has not got."""
        shape = NODES[kind]
        unknown = set(inputs) - {port.name for port in shape.inputs}
        if unknown:
            raise KeyError(f"{kind} has no input {', '.join(sorted(unknown))}")
        node = Node(len(self.nodes) + 1, kind, title or kind, self.group, inputs, files)
        self.nodes.append(node)
        return tuple(Link(node.id, slot) for slot in range(len(shape.outputs)))

    def to_api(self) -> dict[str, Any]:
        """Return what ComfyUI's POST /prompt takes as `prompt`, and its page opens as well."""
        return {
            str(node.id): {
                "class_type": node.kind,
                "inputs": {name: _api_value(value) for name, value in node.inputs.items()},
                "_meta": {"title": node.title},
            }
            for node in self.nodes
        }


def _api_value(value: Value | Link) -> Value | list[Any]:
    return [str(value.node), value.slot] if isinstance(value, Link) else value
