"""As much of a base model as glance looks at before anything is loaded."""

import json
from pathlib import Path
from typing import Any

PARTS = ("scheduler", "transformer", "vae")


def make_model(folder: Path, **index: Any) -> Path:
    parts = {name: ["diffusers", name.title()] for name in PARTS}
    optional = {"image_encoder": [None, None], "force_zeros": True, "odd": [], "layers": [2, 5]}
    folder.mkdir(parents=True)
    content = {"_class_name": "FluxPipeline", **parts, **optional, **index}
    (folder / "model_index.json").write_text(json.dumps(content))
    for name in PARTS:
        (folder / name).mkdir()
    return folder
