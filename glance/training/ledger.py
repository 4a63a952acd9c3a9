"""glance.json while phases are trained, perhaps two at once."""

import threading
from typing import Any

from glance.run import Manifest, RunFolder
from glance.schedule import Phase


class Ledger:
    """The manifest of a run that is being trained: every change is on the disk at once."""

    def __init__(self, run: RunFolder, manifest: Manifest) -> None:
        """Go on from what is recorded."""
        self.run = run
        self.manifest = manifest
        self._turn = threading.Lock()

    def record(self, phase: Phase, **changes: Any) -> None:
        """Change the phase's record and save; raises OSError."""
        with self._turn:
            self.manifest = self.manifest.with_phase(phase, **changes)
            self.manifest.save(self.run)
