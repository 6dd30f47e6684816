"""What lies on disk of a song: its recipe, its latents, its place in the output folder."""
