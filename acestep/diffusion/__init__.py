"""From noise to latents: schedule, guidance, solvers, and what the network sees beside the noise.

Knows tensors and callables only; no network is imported here. Time runs from t = 1 (noise) to
t = 0 (clean latents x0): x_t = t·noise + (1 − t)·x0, and a velocity is noise − x0. Latents have 25
frames per second, [batch, frame, channel].
"""
