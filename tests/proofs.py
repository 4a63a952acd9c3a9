"""A pytest plugin: what `pytest -m families` found out goes to docs/proofs.json."""

import json
from importlib.metadata import version
from pathlib import Path

import pytest

TARGET = Path(__file__).parents[1] / "docs/proofs.json"
STACK = ("simpletuner", "diffusers", "torch")


class Proofs:
    """Results and seconds of the tests of each family, setup (the training) included."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, float]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if "families" not in report.keywords or "[" not in report.nodeid:
            return
        family = report.nodeid.split("[")[1].rstrip("]").split("-")[0]
        row = self.found.setdefault(family, {"passed": 0, "failed": 0, "seconds": 0.0})
        row["seconds"] += report.duration
        row["failed"] += report.failed
        row["passed"] += report.passed and report.when == "call"

    def pytest_sessionfinish(self) -> None:
        earlier = json.loads(TARGET.read_text())["families"] if TARGET.exists() else {}
        new = {name: {**row, "seconds": round(row["seconds"])} for name, row in self.found.items()}
        content = {
            "stack": {name: version(name) for name in STACK},
            "families": dict(sorted({**earlier, **new}.items())),
        }
        TARGET.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
