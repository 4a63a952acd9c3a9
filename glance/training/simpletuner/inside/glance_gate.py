"""A LoRA's process starts while another LoRA still trains, and waits here for its turn.

GLANCE_GATE is the number of a socket to glance. What a training imports is imported; then, before
the options are read, before model or device are touched, this waits for a line from glance: JSON,
what of the environment is another by now. Only then it goes to the run folder and answers with a
line, so that glance knows of a start that has begun; from there on the training is one like any
other. Where glance closes the socket instead, or is gone, this process ends.
"""

import json
import os
import socket


class Gate:
    """What keeps this process from beginning."""

    def __init__(self, number):
        self._socket = socket.socket(fileno=number)

    def hold_device(self, torch):
        """Let nothing that is imported begin with CUDA: that waits, too."""
        begin = getattr(torch._C, "_cuda_init", None)
        if begin is None:
            return

        def begin_in_turn():
            self.wait()
            begin()

        torch._C._cuda_init = begin_in_turn

    def hold_training(self, trainer):
        """Wait; `trainer` is SimpleTuner's module of that name, the last that it imports."""
        self.wait()

    def wait(self):
        """Wait, once, until glance opens."""
        if self._socket is None:
            return
        with self._socket as gate, gate.makefile("r", encoding="utf-8") as lines:
            line = lines.readline()
            if not line.endswith("\n"):
                os._exit(0)
            os.environ.update(json.loads(line))
            os.chdir(os.environ["PWD"])
            gate.sendall(b"\n")
        self._socket = None
