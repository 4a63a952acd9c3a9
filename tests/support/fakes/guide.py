"""SimpleTuner's one-sample guide as somebody has typed it: two configs, a data backend, a pair."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fakes.pairs import write_lora
from PIL import Image

from glance.core.phase import Phase

LISTS = {
    Phase.SLOW: "1000,979.1915,957.5157,934.9171,911.3354",
    Phase.FAST: "886.7053,745.0728,562.9505,320.0802,20.0",
}


def config(phase: Phase, **changes: Any) -> dict[str, Any]:
    """Return one phase's config, word for word the guide's but for the model."""
    usual = {
        "--model_type": "lora",
        "--model_family": "flux",
        "--pretrained_model_name_or_path": "acme/tiny",
        "--data_backend_config": "config/multidatabackend.json",
        "--train_batch_size": 1,
        "--max_train_steps": 60,
        "--lora_rank": 32,
        "--output_dir": f"output/glance-{phase}",
        "--flow_custom_timesteps": LISTS[phase],
    }
    return usual | {f"--{name}": value for name, value in changes.items()}


def write_guide(
    folder: Path = Path("guide"),
    *,
    slow: Mapping[str, Any] | None = None,
    fast: Mapping[str, Any] | None = None,
    **both: Any,
) -> Path:
    """Write everything that the guide asks for; return the folder. `both` go into both configs."""
    (folder / "config").mkdir(parents=True)
    (folder / "data").mkdir()
    backend = {"backend": "simple", "resolution": 64, "shuffle": True, "image_dir": "data"}
    entries = [backend | {"caption_extension": ".txt"}]
    (folder / "config/multidatabackend.json").write_text(json.dumps(entries))
    for phase, own in ((Phase.SLOW, slow), (Phase.FAST, fast)):
        content = config(phase, **both, **(own or {}))
        (folder / f"config/glance-{phase}.json").write_text(json.dumps(content))
    Image.radial_gradient("L").resize((64, 64)).convert("RGB").save(folder / "data/glance.png")
    (folder / "data/glance.txt").write_text("a grey circle\n")
    return folder


def finish(folder: Path, *, recorded: Mapping[str, Any] | None = None) -> None:
    """Leave both finished LoRAs where SimpleTuner does; `recorded`: what it writes beside."""
    for number, phase in enumerate(Phase, 1):
        output = folder / f"output/glance-{phase}"
        write_lora(output / "pytorch_lora_weights.safetensors", fill=float(number))
        if recorded is not None:
            (output / "simpletuner_config.json").write_text(json.dumps(dict(recorded)))
