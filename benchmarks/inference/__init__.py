"""What glance adds to sampling in two phases, and what the guide's own way costs.

Bottom up: `ways` (each a process of its own), `meter` (what they count and time), `report` (what
that says), `measure` (the rounds).
"""
