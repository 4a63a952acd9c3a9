"""What a pair is worth, at a glance: the same noise through the base model and through the pair.

`request` and `result` hold the objects, `plan` decides, `execute` paints what the `cache` does not
hold, `measure` compares the pictures, `summary` makes means of the figures, `verdict` says whether
the pair helps, `sheet` and `page` show all of it, `outputs` writes it, `trial` is what
`glance train --compare` ends with.
"""
