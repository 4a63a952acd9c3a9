"""A record in the words of AUTOMATIC1111's web UI, which Civitai and most viewers read as well."""

import json
import re
from pathlib import PurePosixPath

from glance.sampling.provenance.record import LoraUse, Record


def format_parameters(record: Record) -> str:
    """Return what the web UI calls the infotext: the prompts, then one line of `name: value`.

    After its modules/infotext_utils.py: a value that holds a comma, a colon or a line break is
    quoted as JSON.

    "Lora hashes" are the first ten digits of a file's SHA-256. Civitai looks for an equal hash
    (`mfh.hash = irh.hash` in its SQL function get_image_resources), and this is the one that it
    keeps as AutoV2. The web UI itself writes twelve digits of a hash that leaves out the file's
    header (AutoV3); twelve digits of the whole file's would match nothing. Civitai takes the names
    for keys (src/utils/metadata/automatic.metadata.ts), and both LoRAs of a run are called alike:
    so each name ends in its phase.
    """
    settings = record.settings
    values = {
        "Steps": str(record.steps),
        "Sampler": "Euler",
        "Schedule type": record.schedule.name,
        "CFG scale": repr(settings.slow_guidance).removesuffix(".0"),
        "Seed": str(settings.seed),
        "Size": f"{settings.width}x{settings.height}",
        "Model": PurePosixPath(record.model).name,
        "Lora hashes": ", ".join(f"{_name(lora)}: {lora.sha256[:10]}" for lora in record.loras),
        "Version": f"glance {record.glance}",
    }
    lines = [settings.prompt]
    if settings.negative_prompt:
        lines.append(f"Negative prompt: {settings.negative_prompt}")
    lines.append(", ".join(f"{name}: {_quoted(text)}" for name, text in values.items() if text))
    return "\n".join(lines).encode(errors="replace").decode()  # it has to be encoded once more


def _name(lora: LoraUse) -> str:
    stem = PurePosixPath(lora.file.replace(":", "/")).stem
    return f"{re.sub(r'[^\w.-]+', '-', stem)}-{lora.phase}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if re.search(r'[,:"\n]', text) else text
