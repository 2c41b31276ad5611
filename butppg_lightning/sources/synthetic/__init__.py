"""Synthetic recordings that can teach and can fail: drawn from beats, spoiled by causes, labelled by readers.

``subjects`` say who is recorded, ``heart`` draws beats, and from them ECG and PPG, ``motion`` and ``corruption`` spoil
them, ``recording`` stores them as a device does, ``readers`` judge them by BUT PPG's rule, ``generate`` puts windows
together and ``splits`` writes the files.
"""

from __future__ import annotations

from butppg_lightning.sources.synthetic.generate import synthesize
from butppg_lightning.sources.synthetic.splits import write_mock

__all__ = ["synthesize", "write_mock"]
