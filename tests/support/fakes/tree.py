"""A process with a child and a grandchild, each in a session of its own.

tree.py FOLDER DEPTH [stubborn] [leaving]

Each touches FOLDER/up-DEPTH when it and those below it are there. `stubborn`: none ends on
SIGTERM. `leaving`: the first one ends by itself with code 7, and leaves the others behind.
"""
# ruff: noqa: T201

import signal
import subprocess
import sys
import time
from pathlib import Path

folder, depth, *modes = sys.argv[1:]
if "stubborn" in modes:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if int(depth):
    below = str(int(depth) - 1)
    subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, folder, below, *(set(modes) - {"leaving"})],
        start_new_session=True,
    )
    while not Path(folder, f"up-{below}").exists():
        time.sleep(0.01)
Path(folder, f"up-{depth}").touch()
print("up", flush=True)
if "leaving" in modes:
    sys.exit(7)
time.sleep(600)
