"""glance.json while phases are trained, perhaps two at once."""

import threading
from contextlib import suppress
from typing import Any

from glance.core.errors import LoraError
from glance.core.phase import Phase
from glance.runs.folder import RunFolder
from glance.runs.lora import name_pair
from glance.runs.manifest import Manifest


class Ledger:
    """The manifest of a run that is being trained: every change is on the disk at once."""

    def __init__(self, run: RunFolder, manifest: Manifest) -> None:
        """Go on from what is recorded."""
        self.run = run
        self.manifest = manifest
        self._turn = threading.Lock()

    def record(self, phase: Phase, **changes: Any) -> None:
        """Change the phase's record and save; raises OSError.

        With the second phase the pair is whole and gets its id: before that is recorded, so that
        after a crash the same call does it again.
        """
        with self._turn:
            manifest = self.manifest.with_phase(phase, **changes)
            if manifest.is_finished:
                with suppress(LoraError):  # the other file is gone: its phase is not done then
                    manifest = name_pair(self.run, manifest)
            self.manifest = manifest
            self.manifest.save(self.run)
