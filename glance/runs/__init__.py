"""The pair that is trained on, the run folder, and glance.json, its manifest.

A run is what people keep, move and share: no path in it leaves it, but for a base model that
lies beside it. `sample`, `caption` and `view` examine, load and stage the pair.
"""
