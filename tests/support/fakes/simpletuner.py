"""Stands in for SimpleTuner: all that glance can see of it, in no time and with every misfortune.

Started as `simpletuner train --env glance-slow` in a run folder, or imported by what stands for
its script. `behaviour.json` beside this file says, per phase, what happens; `starts.jsonl` and the
file `ready` beside it say what did. Standard library only: it starts for nearly every test.
"""
# ruff: noqa: T201

import array
import json
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).absolute().parent
DEBUG_LOG = Path("debug.log").absolute()
LORA = "pytorch_lora_weights.safetensors"
MODULES = ("transformer_blocks.0.attn.to_q", "single_transformer_blocks.0.attn.to_k")
LORA_B = 0.25

FAILURES = {
    "out of memory": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 72.00 MiB.",
    "disk full": "OSError: [Errno 28] No space left on device: 'output/pytorch_lora_weights'",
    "unknown": "Traceback (most recent call last):\nRuntimeError: the flux capacitor is missing",
}


class Trainer:
    def __init__(self, environment: str) -> None:
        self.environment = environment
        self.phase = environment.removeprefix("glance-")
        self.config = json.loads(Path("config", environment, "config.json").read_bytes())
        self.output = Path(self.config["output_dir"])
        self.steps = self.config["max_train_steps"]
        self.webhook = json.loads(os.environ["GLANCE_WEBHOOK"])

    def record(self) -> None:
        start = {
            "phase": self.phase,
            "pid": os.getpid(),
            "argv": sys.argv,
            "cwd": str(Path.cwd()),
            "environment": dict(os.environ),
            "config": self.config,
            "data": self.find("image"),
            "reference": self.find("conditioning"),
            "resumed": self.newest_checkpoint(),
        }
        with (HERE / "starts.jsonl").open("a") as file:
            file.write(json.dumps(start) + "\n")

    def folders(self, kind: str) -> list[Path]:
        backends = json.loads(Path(self.config["data_backend_config"]).read_bytes())
        chosen = [one for one in backends if one["dataset_type"] == kind]
        return [Path(one["instance_data_dir"].replace("{env:PWD}", ".")) for one in chosen]

    def find(self, kind: str) -> list[str]:
        """All files that are found to train on: at any depth."""
        found = (path for folder in self.folders(kind) for path in folder.rglob("*"))
        return sorted(path.name for path in found if path.is_file())

    def newest_checkpoint(self) -> int:
        names = [path.name for path in self.output.glob("checkpoint-*")]
        return max((int(name.split("-")[1]) for name in names if name[-3:] != "tmp"), default=0)

    def post(self, kind: str, **content: Any) -> None:
        _, _, address, path = self.webhook["callback_url"].split("/")
        host, port = address.split(":")
        body = json.dumps({"type": kind, **content}).encode()
        head = f"POST /{path} HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n"
        try:
            with socket.create_connection((host, int(port)), timeout=5) as connection:
                connection.sendall(head.encode() + body)
                while connection.recv(4096):
                    pass
        except OSError:
            print("webhook: nobody there")

    def train(self, after_a_step: Callable[[], None] = lambda: None) -> None:
        print(f"Using environment: {self.environment}")
        self.post("lifecycle.stage", stage={"key": "init", "label": "Loading the model"})
        self.keep_books()
        done = self.newest_checkpoint()
        if done >= self.steps:  # SimpleTuner 4.10 looks after a step only whether that was the last
            sys.exit("one step too many")
        for step in range(done + 1, self.steps + 1):
            self.take_step(step)
            after_a_step()
        self.save(self.output)
        (self.output / "README.md").write_text("base_model: flux/unknown-model\n")
        model = os.environ.get("GLANCE_MODEL", "")
        name = self.config["pretrained_model_name_or_path"].replace("{env:GLANCE_MODEL}", model)
        options = {"pretrained_model_name_or_path": name, "vae_path": name}
        (self.output / "simpletuner_config.json").write_text(json.dumps(options))
        print("Training complete")

    def take_step(self, step: int, *, saves: bool = True) -> None:
        self.take_targets()
        progress = {"current": step, "total": self.steps, "eta_seconds": self.steps - step}
        self.post("training.status", progress={**progress, "metrics": {"loss": 1 / step}})
        print(f"Epoch 1/1, Steps:  {step}/{self.steps}", end="\r", flush=True)
        if saves and step % self.config["checkpoint_step_interval"] == 0:
            self.checkpoint(step)

    def take_targets(self) -> None:
        """Leave the receipt of glance's module, which its sitecustomize brings in here."""
        if path := os.environ.get("GLANCE_TARGETS"):
            receipt = json.loads(Path(path).read_bytes())["receipt"]
            Path(receipt).write_text("recorded targets are in use\n")

    def checkpoint(self, step: int) -> None:
        folder = self.output / f"checkpoint-{step}"
        self.save(folder)
        pictures = ("cache/pictures/64/cat.png", "data/cat.png")
        seen = {f"{Path.cwd()}/{name}": step for name in pictures}
        (folder / "training_state-glance.json").write_text(json.dumps({"seen_images": seen}))
        self.post("training.checkpoint", checkpoint={"path": f"{self.output}/{folder.name}"})

    def keep_books(self) -> None:
        """Leave absolute paths behind, and a debug.log, as SimpleTuner does."""
        here = json.dumps({"at": str(Path.cwd())})
        latents = Path("cache/vae", str(Path.cwd()).lstrip("/"), "latents.pt")
        self.output.mkdir(parents=True, exist_ok=True)
        latents.parent.mkdir(parents=True, exist_ok=True)
        latents.write_text("latents")
        for folder in self.folders("image"):
            (folder / "aspect_ratio_bucket_indices_glance.json").write_text(here)
        for folder in self.folders("conditioning"):
            (folder / "aspect_ratio_bucket_indices_reference.json").write_text(here)
            Path("cache/vae-reference").mkdir(parents=True, exist_ok=True)
        (self.output / "all_image_files_glance.json").write_text(here)
        with DEBUG_LOG.open("a") as log:
            log.write(f"everything of {self.phase}, twice\n")

    def save(self, folder: Path, *, rank: int | None = None, lora_b: float = LORA_B) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LORA).write_bytes(pack_lora(rank or self.config["lora_rank"], lora_b))


def pack_lora(rank: int, lora_b: float) -> bytes:
    """Return a LoRA of width 8 in the safetensors format."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for module in MODULES:
        for half, shape, value in (("A", [rank, 8], 0.5), ("B", [8, rank], lora_b)):
            content = array.array("f", [value] * (8 * rank)).tobytes()
            header[f"transformer.{module}.lora_{half}.weight"] = {
                "dtype": "F32",
                "shape": shape,
                "data_offsets": [len(data), len(data) + len(content)],
            }
            data += content
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


def fail(message: str) -> Callable[[Trainer], None]:
    def behave(trainer: Trainer) -> None:
        trainer.keep_books()
        trainer.take_step(1)
        print("loading weights", flush=True)
        print(message, file=sys.stderr)
        sys.exit(1)

    return behave


def fail_after_checkpoints(trainer: Trainer) -> None:
    trainer.keep_books()
    for step in range(1, 4):
        trainer.take_step(step)
    sys.exit(1)


def leave(**changes: Any) -> Callable[[Trainer], None]:
    """All goes well, but the LoRA is another in the end."""

    def behave(trainer: Trainer) -> None:
        trainer.train()
        trainer.save(trainer.output, **changes)

    return behave


def ignore_targets(trainer: Trainer) -> None:
    """Train on the pictures, as where something hides glance's sitecustomize."""
    os.environ.pop("GLANCE_TARGETS")
    trainer.train()


def die_killed(trainer: Trainer) -> None:
    trainer.take_step(1)
    os.kill(os.getpid(), signal.SIGKILL)


def tell_secret(trainer: Trainer) -> None:
    token = os.environ["HF_TOKEN"]
    print(f"logging in with {token}")
    Path("debug.log").write_text(f"Authorization: Bearer {token}\n")
    fail(f"401 Client Error for token={token}")(trainer)


def break_manifest(trainer: Trainer) -> None:
    """Make glance.json unwritable for everybody, as a full disk does."""
    Path("glance.json").unlink()
    Path("glance.json").mkdir()
    fail(FAILURES["disk full"])(trainer)


def hang(trainer: Trainer) -> None:
    """Half the steps, then wait for ever, with a worker in a session of its own, as accelerate."""
    start_worker("")
    wait_for_ever(trainer)


def hang_stubbornly(trainer: Trainer) -> None:
    """The same, and neither the trainer nor its worker ends on SIGTERM."""

    def take_time(*_: object) -> None:
        (HERE / "asked").touch()
        time.sleep(6)
        (HERE / "still there").touch()

    signal.signal(signal.SIGTERM, take_time)
    start_worker("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); ")
    wait_for_ever(trainer)


def go_on_for_ever(trainer: Trainer) -> None:
    """The first step again and again, and a checkpoint when asked for one."""
    requests = Path(os.environ["SIMPLETUNER_ACCELERATE_SIGNAL_FILE"])
    assert json.loads(requests.read_bytes()) == {}, "SimpleTuner warns when there is no such file"
    trainer.keep_books()
    for step in range(1, 1_000_000):
        trainer.take_step(1, saves=False)  # else it is ended while it writes the same one again
        (HERE / "ready").touch()
        time.sleep(0.05)
        if json.loads(requests.read_bytes()).get("manual_checkpoint"):
            trainer.checkpoint(step)
            requests.write_text("{}")


def wait_until(happens: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not happens():
        assert time.monotonic() < deadline, "the other phase is not there"
        time.sleep(0.02)


def wait_for_the_other() -> None:
    wait_until(lambda: len((HERE / "starts.jsonl").read_text().splitlines()) > 1)


def train_beside_one_that_waits(trainer: Trainer) -> None:
    wait_until((HERE / "waits").exists)
    trainer.train()


def fail_beside_one_that_waits(trainer: Trainer) -> None:
    wait_until((HERE / "waits").exists)
    fail(FAILURES["unknown"])(trainer)


def fail_beside_the_other(trainer: Trainer) -> None:
    """Fail, when the other phase has begun too."""
    trainer.keep_books()
    trainer.take_step(1)
    wait_for_the_other()
    fail(FAILURES["unknown"])(trainer)


def die_slowly(trainer: Trainer) -> None:
    """On SIGTERM write something first, and much of it."""

    def last_words(*_: object) -> None:
        for number in range(5000):
            print(f"saving what there is, part {number} of 5000")
        (HERE / "said goodbye").touch()
        sys.exit(0)

    signal.signal(signal.SIGTERM, last_words)
    wait_for_ever(trainer)


def rave(trainer: Trainer) -> None:
    """Bytes that are no text, a line without end, and a flood; then all goes well."""
    sys.stdout.buffer.write(b"\xff\xfe caf\xe9\n" + b"=" * 1_000_000 + b"\n")
    for _ in range(50):
        sys.stdout.buffer.write((b"the same warning again" * 50 + b"\n") * 1000)
    trainer.train()


def start_worker(prelude: str) -> None:
    import subprocess  # takes time, and is seldom needed

    code = f"{prelude}import time; print('up', flush=True); time.sleep(600)"
    # The folder in its arguments is how a test finds it among all processes.
    worker = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code, HERE],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert worker.stdout is not None
    worker.stdout.readline()


def wait_for_ever(trainer: Trainer) -> None:
    trainer.keep_books()
    for step in range(1, trainer.steps // 2 + 1):
        trainer.take_step(step)
    (HERE / "ready").touch()
    while True:
        time.sleep(600)


BEHAVIOURS: dict[str, Callable[[Trainer], None]] = {
    "ok": Trainer.train,
    **{name: fail(message) for name, message in FAILURES.items()},
    "unknown after checkpoints": fail_after_checkpoints,
    "mute": lambda _: sys.exit(0),
    "mute failure": lambda _: sys.exit(3),
    "other tensors": leave(lora_b=LORA_B / 2),
    "zero": leave(lora_b=0.0),
    "wrong rank": leave(rank=5),
    "ignores the targets": ignore_targets,
    "killed": die_killed,
    "secret": tell_secret,
    "broken manifest": break_manifest,
    "hang": hang,
    "stubborn": hang_stubbornly,
    "slow death": die_slowly,
    "steady": lambda trainer: trainer.train(lambda: time.sleep(0.1)),
    "endless": go_on_for_ever,
    "raving": rave,
    "beside the other": lambda trainer: trainer.train(wait_for_the_other),
    "fail beside the other": fail_beside_the_other,
    "beside one that waits": train_beside_one_that_waits,
    "fail beside one that waits": fail_beside_one_that_waits,
}


def main() -> None:
    command, flag, environment = sys.argv[1:]
    assert (command, flag) == ("train", "--env")
    trainer = Trainer(environment)
    trainer.record()
    behaviours = json.loads((HERE / "behaviour.json").read_bytes())
    BEHAVIOURS[behaviours.get(trainer.phase, "ok")](trainer)


if __name__ == "__main__":
    main()
