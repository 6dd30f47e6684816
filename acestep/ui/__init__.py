"""The page: Gradio components around one `MusicService`. Imports no torch, so it opens at once."""

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 7860  # here, because `app` imports gradio
