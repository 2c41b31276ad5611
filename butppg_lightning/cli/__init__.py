"""The `butppg` command: one file a command, each imported only when it is asked for."""

from butppg_lightning.cli.command_table import COMMANDS, main

__all__ = ["COMMANDS", "main"]
