"""Write what was trained as a FluxPipeline folder, and measure that folder as users load it.

    python recipes/small_flux/export.py --work DIR --model glance/assets/small-flux --captions 200

Takes DIR/vae and the averaged weights of DIR/flux.pt. `--captions 0` only writes.
"""

import argparse
import hashlib
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxPipeline
from flux import write_pipeline
from measure import measure
from session import Log, load_checkpoint
from text import Text
from train_flux import build_learner


def main() -> None:
    """Write, hash, load again, measure."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    log = Log(arguments.work / "export.jsonl")
    state = load_checkpoint(arguments.work / "flux.pt")
    if state is None:
        raise SystemExit(f"no checkpoint: {arguments.work / 'flux.pt'}")
    learner = build_learner(None)
    learner.load_state_dict(state["average"], strict=False)
    vae = AutoencoderKL.from_pretrained(arguments.work / "vae", torch_dtype=torch.float32)
    write_pipeline(
        arguments.model, vae=vae, text=learner.text, transformer=learner.transformer.eval()
    )
    for path in sorted(arguments.model.rglob("*.safetensors")):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        name = str(path.relative_to(arguments.model))
        log.write(event="file", name=name, bytes=path.stat().st_size, sha256=digest)
    if arguments.captions:
        _measure(arguments, log)


def _measure(arguments: argparse.Namespace, log: Log) -> None:
    pipeline = FluxPipeline.from_pretrained(arguments.model)
    text = Text(
        pipeline.text_encoder,
        pipeline.tokenizer,
        pipeline.text_encoder_2,
        pipeline.tokenizer_2,
    )
    for steps in (50, 10):
        for guidance in (3.5, 1.0):
            result = measure(
                text,
                pipeline.transformer,
                pipeline.vae,
                guidance=guidance,
                count=arguments.captions,
                steps=steps,
            )
            log.write(event="measure", steps=steps, guidance=guidance, **result)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="where training left its result")
    parser.add_argument("--model", type=Path, required=True, help="the folder to write")
    parser.add_argument("--captions", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
