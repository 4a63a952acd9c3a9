"""Many pairs, many images: jobs, where they run, and what became of them.

A job is a command line of glance's own, and its run folder says how far it came: so whoever runs
it, this machine's queue, Ray or an array of a cluster, runs the same thing, and may run it again.
"""
