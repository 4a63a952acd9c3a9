"""Qwen-Image-Edit-2511: what sets it apart is inside the transformer."""

from plain_loops.qwen_image_edit_2509 import begin, end

__all__ = ["begin", "end"]
