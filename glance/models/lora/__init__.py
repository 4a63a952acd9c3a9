"""LoRA files: read, verify, finalise, and examine those of others. Needs numpy, no torch."""
