"""A two-phase sampling in ComfyUI's words: nodes, graph, layout. Pure: no torch, no network."""

from glance.comfyui.graph import Graph
from glance.comfyui.page import lay_out_page
from glance.comfyui.workflow import Job, build_workflow, guess_model

__all__ = ["Graph", "Job", "build_workflow", "guess_model", "lay_out_page"]
