"""Synthetic recordings that can teach and can fail: drawn from beats, spoiled by causes, labelled by readers.

``subjects`` say who is recorded with which device, ``heart`` draws beats, and from them ECG and PPG, ``motion`` and
``corruption`` spoil them, ``readers`` judge them by BUT PPG's rule, ``generate`` puts windows and files together.
"""

from __future__ import annotations

from butppg_lightning.sources.synthetic.generate import synthesize, write_mock

__all__ = ["synthesize", "write_mock"]
