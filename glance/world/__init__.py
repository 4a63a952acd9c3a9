"""A small world with exact answers: landscapes drawn by code, their captions, and a checker.

Three files, bottom up: `scene` (what a picture can show), `draw` (the picture), `captions` (words
for it, and back) and `check` (does a picture show what a caption says). numpy only, no torch.
"""

from glance.world.captions import describe, describe_loosely, read_caption
from glance.world.check import Verdict, check_picture, read_picture
from glance.world.draw import SIDE, draw
from glance.world.scene import (
    ATTRIBUTES,
    Scene,
    all_facts,
    held_out_scenes,
    is_held_out,
    random_scene,
    training_scene,
)

__all__ = [
    "ATTRIBUTES",
    "SIDE",
    "Scene",
    "Verdict",
    "all_facts",
    "check_picture",
    "describe",
    "describe_loosely",
    "draw",
    "held_out_scenes",
    "is_held_out",
    "random_scene",
    "read_caption",
    "read_picture",
    "training_scene",
]
