"""The gate in the trainer's process holds whatever in torch would begin with CUDA."""

import os
import socket
from importlib import import_module
from pathlib import Path

import pytest
import torch

from glance.training.simpletuner import process


def test_cuda_is_begun_with_after_the_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def begin() -> None:
        order.extend([os.environ["GLANCE_WEBHOOK"], Path.cwd().name])
        raise RuntimeError("there is no device")

    monkeypatch.setattr(torch._C, "_cuda_init", begin)
    monkeypatch.setattr(torch.cuda, "_initialized", False)
    monkeypatch.setenv("GLANCE_WEBHOOK", "")
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("PWD", str(tmp_path / "run"))
    monkeypatch.syspath_prepend(Path(process.__file__).parent / "inside")
    ours, theirs = socket.socketpair()
    with ours:
        import_module("glance_gate").Gate(theirs.detach()).hold_device(torch)
        ours.sendall(b'{"GLANCE_WEBHOOK": "told"}\n')

        with pytest.raises(RuntimeError, match="there is no device"):
            torch.zeros(1, device="cuda")

        assert ours.recv(1) == b"\n"
    assert order == ["told", "run"]
