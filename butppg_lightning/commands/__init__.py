"""What each `butppg` command does: one module a command, each with `run(arguments)`; `cli.py` is the table of them."""
