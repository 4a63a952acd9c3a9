"""What things cost, and what a pair is worth: measured, never asserted."""
