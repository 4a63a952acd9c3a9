"""`glance train`: plan decides and touches nothing, preflight looks at the
machine, prepare makes the run folder, execute acts.

Nothing is imported here: a dry run needs the plan alone and is quicker without the rest.
"""
