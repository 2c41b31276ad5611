"""`python -m butppg_lightning` is the `butppg` command."""

from butppg_lightning.cli import run

if __name__ == "__main__":
    run()
