"""Run the study: ``python tests/people --help``."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # where the package `people` is, not what is inside it

from people.command import main  # noqa: E402

sys.exit(main())
