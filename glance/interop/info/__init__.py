"""`glance info`: all that a LoRA, a run or a picture says of itself. Reads, and changes nothing."""
