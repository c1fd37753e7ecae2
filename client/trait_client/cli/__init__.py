"""The `trait-client` command line."""

from trait_client.cli.app import main

__all__ = ["main"]
