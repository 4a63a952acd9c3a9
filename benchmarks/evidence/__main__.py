"""Train, sample, read, count: `uv run python -m benchmarks.evidence --work ~/evidence`.

Everything made lies in the work folder and is not made again. Two cores take about five hours;
results.json, distilled.json and the tables of docs/evidence.md and docs/distill.md are written
anew at the end.
"""

import argparse
import os
from importlib.resources import files
from pathlib import Path

from benchmarks.evidence import report
from benchmarks.evidence.distilled import judging, tables
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
    parser.add_argument("--only", choices=("pairs", "lists", "distilled"), help="one study of all")
    options = parser.parse_args()
    shop = Workshop(options.work.absolute(), Path(str(files("glance") / "assets/small-flux")))
    figures = report.load()
    if options.only in (None, "pairs", "lists"):
        make_samples(shop)
    if options.only in (None, "pairs"):
        pairs = list(all_pairs())
        train_all(shop, pairs, jobs=options.jobs)
        measure_all(shop, pairs, jobs=options.jobs)
        figures = {**figures, **find(shop)}
    if options.only in (None, "lists"):
        figures = {**figures, "lists": study(shop, jobs=options.jobs)}
    if options.only in (None, "distilled"):
        figures = {**figures, "distilled": judging.study(shop, jobs=options.jobs)}
        tables.write_page()
    report.keep(figures)


if __name__ == "__main__":
    main()
