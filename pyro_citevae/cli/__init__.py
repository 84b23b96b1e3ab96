"""The command line, a file a group of commands."""

from pyro_citevae.cli.app import app, main

__all__ = ["app", "main"]
