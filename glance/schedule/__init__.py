"""Noise levels: both phases' lists, the models' own schedules, and schedules as files."""
