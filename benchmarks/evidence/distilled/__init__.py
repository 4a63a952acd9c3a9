"""What a pair is worth that the base model teaches: `--only distilled` of the evidence.

Bottom up: `recipes` (what is trained, and the questions it answers), `teaching` (the base model's
paths and the training on them, in this process), `judging` (pairs to figures, kept one by one),
`tables` (figures to the pages).

Sixty pairs by SimpleTuner would take a day, most of it starting and saving. So they are trained
here on the same objective with the same optimizer; some are trained by `glance distill` besides.
"""
