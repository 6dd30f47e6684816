"""The page: Gradio components around one `MusicService`. Imports no torch, so it opens at once."""
