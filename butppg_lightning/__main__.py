"""`python -m butppg_lightning` is the `butppg` command."""

import sys

from butppg_lightning.cli import main

if __name__ == "__main__":
    sys.exit(main())
