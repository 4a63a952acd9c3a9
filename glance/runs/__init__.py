"""The run folder: where everything lies, and glance.json, its manifest.

A run is what people keep, move and share: no path in it leaves it, but for a base model that
lies beside it.
"""
