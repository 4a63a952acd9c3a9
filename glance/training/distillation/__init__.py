"""`glance distill`: the base model teaches two LoRAs to take its own many steps in few.

What the base passes on its way from noise to picture is recorded; each LoRA learns that one Euler
step from a state x_j of its list lands on the next, x_j+1: the velocity (x_j - x_j+1) / (s_j -
s_j+1). No picture is needed, only prompts. `request` holds the objects, `plan` decides, `record`
makes the recordings, `execute` has both LoRAs trained on them and judged.

The objective is DiffSynth-Studio's `trajectory_imitation`; close to it are progressive distillation
(arXiv 2202.00512), PeRFlow (2405.07510), TraFlow (2502.16972) and SCFM (2510.17858).
"""
