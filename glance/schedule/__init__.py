"""Noise levels: both phases' lists, the models' own schedules, and schedules as files.

Names of `lists` are also names of this package; `shift`, `derive` and `file` are imported where
they are needed.
"""
