"""`glance web`: the commands in a browser. Pages plan with the functions that the commands call.

What is long runs as a command of its own, which outlives the server; its run folder is the truth.
"""
