"""`glance import`: what others' configs and LoRAs become a run of: one to train, or a finished one.

The user's own files are only read.
"""
