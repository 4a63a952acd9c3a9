"""Train, sample, read, count: `uv run python -m benchmarks.evidence --work ~/evidence`.

Everything made lies in the work folder and is not made again. Two cores take about three hours;
the tables of docs/evidence.md and results.json are written anew at the end.
"""

import argparse
import json
import os
from importlib.resources import files
from pathlib import Path

from benchmarks.evidence import report
from benchmarks.evidence.findings import find
from benchmarks.evidence.lists import study
from benchmarks.evidence.measuring import measure_all
from benchmarks.evidence.pairs import all_pairs
from benchmarks.evidence.training import make_samples, train_all
from benchmarks.evidence.workshop import Workshop


def main() -> None:
    """Run it all, or what is left of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="outside git: a few hundred MB")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="side by side")
    parser.add_argument("--only", choices=("pairs", "lists"), help="one study of the two")
    options = parser.parse_args()
    shop = Workshop(options.work.absolute(), Path(str(files("glance") / "assets/small-flux")))
    figures = report.load()
    make_samples(shop)
    if options.only != "lists":
        pairs = list(all_pairs())
        train_all(shop, pairs, jobs=options.jobs)
        measure_all(shop, pairs, jobs=options.jobs)
        figures = {**figures, **find(shop)}
    if options.only != "pairs":
        figures = {**figures, "lists": study(shop, jobs=options.jobs)}
    report.RESULTS.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    page = report.fill(report.PAGE.read_text(encoding="utf-8"), figures)
    report.PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
