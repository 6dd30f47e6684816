"""The 5 Hz language model: a request becomes a plan, metadata and five audio codes per second."""
