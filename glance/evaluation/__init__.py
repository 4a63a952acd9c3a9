"""Does a pair help, and which schedule is best: comparing, measuring, searching."""
