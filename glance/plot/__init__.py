"""Pictures (matplotlib's) and text charts of schedules and losses; the data behind is apart."""

from glance.plot.canvas import ASCII, UNICODE, Glyphs, choose_glyphs
from glance.plot.figure import require_ending
from glance.plot.losses import chart_course, describe_course, draw_losses
from glance.plot.schedule import SchedulePoints, chart_schedule, draw_schedule, schedule_points

__all__ = [
    "ASCII",
    "UNICODE",
    "Glyphs",
    "SchedulePoints",
    "chart_course",
    "chart_schedule",
    "choose_glyphs",
    "describe_course",
    "draw_losses",
    "draw_schedule",
    "require_ending",
    "schedule_points",
]
