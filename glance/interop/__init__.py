"""Pairs elsewhere, and what files say: `glance export`, `glance import`, `glance info`."""
