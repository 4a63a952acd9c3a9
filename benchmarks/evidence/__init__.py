"""What a pair does to the small model of the package, measured: `python -m benchmarks.evidence`.

Bottom up: `schedules` (the lists compared), `pairs` (what is trained), `training` (trains it with
glance), `sampling` (pictures, many at once), `observations` (what the checker reads in them),
`findings` (observations to figures), `report` (figures to tables).
"""
