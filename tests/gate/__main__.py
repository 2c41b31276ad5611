"""Make the shipped gate: ``python tests/gate --help``."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # where the package `gate` is, not what is inside it

from gate.command import main  # noqa: E402

sys.exit(main())
