"""`glance train` and `glance distill`: plan and distillation decide and touch nothing, machine is
what the computer must have, folder makes the run folder, execute trains, recording records.

Nothing is imported here: a dry run needs the plan alone and is quicker without the rest.
"""
