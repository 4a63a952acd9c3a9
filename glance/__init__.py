"""glance: from one image and its caption to a slow and a fast LoRA, and to ten-step pictures."""

__version__ = "0.1.0"
