"""What glance adds to sampling in two phases, and what the guide's own way costs.

`uv run python -m benchmarks.inference [ROUNDS]`. A FLUX with random weights, and two random LoRAs
of rank 16, sample at 256x256 on the CPU in the ways of `ways`, each in a process of its own, in
interleaved rounds with a new order each. Figures are medians of the processor's seconds on one
thread, and of ratios within a round. About two and a half minutes a round.
"""
