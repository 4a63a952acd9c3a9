"""What FLUX.1-dev's size takes of a card, with random weights: `python -m benchmarks.card`.

Bottom up: `runner` (parts, one after another, each within its time), `parts` (which there are),
`models` (random weights as large as the real ones), `sampling`, `training`, `small` (what is
measured), `measure` (a part's own process), `figures` (what the pages say of it).
"""
