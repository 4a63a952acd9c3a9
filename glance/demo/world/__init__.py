"""A small world with exact answers: landscapes drawn by code, their captions, and a checker.

Three files, bottom up: `scene` (what a picture can show), `draw` (the picture), `captions` (words
for it, and back) and `check` (does a picture show what a caption says). numpy only, no torch.
"""
