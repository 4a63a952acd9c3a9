"""`python -m scripts.comfyui CHECKOUT`: hold what glance exports to ComfyUI's own source.

CHECKOUT is a clone of github.com/Comfy-Org/ComfyUI; it runs in this process, on the CPU, and needs
nothing that glance's environment has not got. `--record` writes the nodes that it describes to
tests/fixtures, to which the normal tests hold the exporter.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glance.core.phase import Phase
from glance.models.families import FAMILIES, Family
from glance.models.families.family import ComfyFile
from glance.sampling.comfyui import NODES, Job, build_workflow, guess_model
from glance.sampling.settings import resolve_sample_settings
from glance.schedule.lists import PRESETS
from scripts.comfyui.checkout import Checkout
from scripts.comfyui.lora_keys import Mapped, prove_keys
from scripts.comfyui.sampling import prove_sampling

FIXTURE = Path(__file__).parents[2] / "tests/fixtures/comfyui-nodes.json"
CLOSE = 1e-4  # of latents about 0.5 large: only rounding


def main() -> None:
    """Prove, and say what was proven; exit with 1 where it was not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--record", action="store_true", help=f"write {FIXTURE.name}")
    asked = parser.parse_args()
    checkout = Checkout(asked.checkout.resolve())
    say(f"ComfyUI {checkout.version}")
    if checkout.lacks_manual_sigmas:
        say("  it has no ManualSigmas node: its few lines are supplied here")
    nodes = {name: checkout.object_info(name) for name in NODES if name in checkout.classes}
    widgets = {name: checkout.widgets(name) for name in nodes}  # before any file is offered
    faults = [*check_nodes(nodes), *check_workflows(checkout)]
    mapped, left_over = check_keys(checkout)
    faults += [*left_over, *check_sampling(checkout)]
    if asked.record:
        record(checkout, {"nodes": nodes, "widgets": widgets}, mapped)
    for fault in faults:
        say(f"FAULT {fault}")
    raise SystemExit(1 if faults else 0)


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)  # noqa: T201


def record(checkout: Checkout, said: Mapping[str, Any], mapped: Mapping[str, Mapped]) -> None:
    """Write down what the checkout says of the nodes that are used, and which keys it maps."""
    loras = {
        name: {"modules": found.modules, "names": found.names} for name, found in mapped.items()
    }
    content = {"comfyui": checkout.version, **said, "loras": loras}
    FIXTURE.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def check_nodes(nodes: Mapping[str, Any]) -> list[str]:
    """Hold our table of nodes to the checkout's own description."""
    faults = []
    for name, kind in NODES.items():
        if name not in nodes:
            say(f"  node {name}: not in this checkout")
            continue
        info = nodes[name]
        inputs = {**info["input"]["required"], **info["input"]["optional"]}
        wrong = [port.name for port in kind.inputs if inputs.get(port.name) != port.type]
        outputs = [port.type for port in kind.outputs]
        if wrong or outputs != info["output"]:
            faults.append(f"node {name}: {wrong or outputs} is not {inputs} -> {info['output']}")
    say(f"nodes: {len(NODES)} described, {len(faults)} otherwise than ComfyUI does")
    return faults


def check_workflows(checkout: Checkout) -> list[str]:
    """Let ComfyUI validate every family's workflow, guided and with nothing but the defaults."""
    faults = []
    with tempfile.TemporaryDirectory() as folder:
        for family in FAMILIES.values():
            job = make_job(family)
            files = [ComfyFile(name, "loras") for name in job.loras.values()]
            graph = build_workflow(job)
            offered = [*files, *(file for node in graph.nodes for file in node.files)]
            checkout.offer(offered, Path(folder))
            refusal = checkout.refusal(graph.to_api())
            if refusal and is_newer(checkout, family):
                say(f"  {family.name}: newer than this checkout")
            elif refusal:
                faults.append(f"workflow of {family.name}: {refusal}")
            else:
                say(f"  {family.name}: its workflow of {len(graph.nodes)} nodes is valid")
    return faults


def is_newer(checkout: Checkout, family: Family) -> bool:
    """Whether the checkout knows neither the family's text encoder nor its latents."""
    if family.comfyui.latent not in checkout.classes:
        return True
    kinds = checkout.classes["CLIPLoader"].INPUT_TYPES()["required"]["type"][0]
    return len(family.comfyui.text_encoders) == 1 and family.comfyui.text_type not in kinds


def make_job(family: Family) -> Job:
    """Return a picture of the family's default model."""
    settings = resolve_sample_settings(family, prompt="a lighthouse at dusk")
    return Job(
        family=family,
        model=guess_model(family, family.default_model),
        loras={phase: f"pair-{phase}.safetensors" for phase in Phase},
        schedule=PRESETS["guide"].schedule,
        settings=settings,
    )


def check_keys(checkout: Checkout) -> tuple[dict[str, Mapped], list[str]]:
    """Let ComfyUI load a LoRA of every family into its own model; return that, and faults."""
    faults: list[str] = []
    loaded: dict[str, Mapped] = {}
    for name in FAMILIES:
        try:
            mapped = prove_keys(checkout, name)
        except AssertionError as exc:
            faults.append(f"LoRA of {name}: {exc}")
            continue
        if mapped is None:
            say(f"  {name}: this checkout has no such model")
        else:
            loaded[name] = mapped
            say(
                f"  {name}: {mapped.keys} of {mapped.keys} keys mapped, {mapped.layers} layers of "
                f"diffusers' change {mapped.weights} weights of ComfyUI's"
            )
    return loaded, faults


def check_sampling(checkout: Checkout) -> list[str]:
    """Paint with ComfyUI's nodes and model code what glance paints."""
    faults: list[str] = []
    ways: dict[str, dict[str, Any]] = {
        "guidance embedded": {},
        "classifier-free guidance besides": {
            "true_cfg": 2.5,
            "negative_prompt": "a blue tree",
            "seed": 3,
        },
    }
    for name, asked in ways.items():
        found = prove_sampling(checkout, **asked)
        say(
            f"  small FLUX, {name}: latents of size {found.size:.2f} differ by at most "
            f"{found.handed_over:.1e} where they are handed over, {found.final:.1e} at the end; "
            f"the LoRAs change them by {found.change:.2f}"
        )
        if max(found.handed_over, found.final) > CLOSE:
            faults.append(f"sampling with {name}: {found}")
    return faults


if __name__ == "__main__":
    main()
