"""The command line. The only package that prints or reads the environment."""

from acestep.cli.app import build_app, main

__all__ = ["build_app", "main"]
