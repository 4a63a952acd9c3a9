"""A pytest plugin: what `pytest -m families` found out goes to docs/proofs.json."""

import json
from importlib.metadata import version
from pathlib import Path

import pytest

TARGET = Path(__file__).parents[2] / "docs/proofs.json"
STACK = ("simpletuner", "diffusers", "torch")
KINDS = {"test_families.py": "families", "test_distill_families.py": "distilled"}
"""Where the tests of each kind are, and what the file calls it."""


class Proofs:
    """Results and seconds of the tests of each family, setup (the training) included."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, dict[str, float]]] = {kind: {} for kind in KINDS.values()}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        kind = KINDS.get(Path(report.nodeid.split("::")[0]).name)
        if kind is None or "[" not in report.nodeid:
            return
        family = report.nodeid.split("[")[1].rstrip("]").split("-")[0]
        row = self.found[kind].setdefault(family, {"passed": 0, "failed": 0, "seconds": 0.0})
        row["seconds"] += report.duration
        row["failed"] += report.failed
        row["passed"] += report.passed and report.when == "call"

    def pytest_sessionfinish(self) -> None:
        earlier = json.loads(TARGET.read_text()) if TARGET.exists() else {}
        content: dict[str, object] = {"stack": {name: version(name) for name in STACK}}
        for kind, rows in self.found.items():
            new = {name: {**row, "seconds": round(row["seconds"])} for name, row in rows.items()}
            content[kind] = dict(sorted({**earlier.get(kind, {}), **new}.items()))
        TARGET.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
