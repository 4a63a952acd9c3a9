"""What a picture says of its own making: written into it, and read back out of it."""
