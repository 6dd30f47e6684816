"""Synthetic songs: scores and their sound, captions, 5 Hz codes, latents, planner lessons."""
