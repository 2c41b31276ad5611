"""The loop of `butppg score`: windows of a recording through a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from butppg_lightning.console import progress_bar
from butppg_lightning.evaluation.scores import Scores
from butppg_lightning.evaluation.timeline import Example
from butppg_lightning.models.prediction import EXACT, predict_windows
from butppg_lightning.sources.recordings.windowing import STATES, WINDOW_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from butppg_lightning.models.network import QualityNetwork
    from butppg_lightning.npz import Array
    from butppg_lightning.sources.recordings import Recording
    from butppg_lightning.sources.recordings.windowing import WindowChunk, Windows


def score_windows(
    network: QualityNetwork,
    windows: Windows,
    recording: Recording,
    threshold: float,
    batch_size: int,
    prior: float | None = None,
) -> tuple[Scores, list[Example], str]:
    """Score the windows of a recording, in half precision where the machine computes in it.

    Args:
        network: The classifier.
        windows: The windows, with the network's channels.
        recording: What they were cut from.
        threshold: From this probability on a window is good.
        batch_size: Windows per forward pass.
        prior: Share of good windows to assume; None for the one the network was calibrated at.

    Returns:
        The scores, the best and the worst window, and the precision that was used.
    """
    precision = EXACT
    column = windows.channels.index("PPG")
    parts: list[tuple[Array, Array, Array]] = []
    extremes: dict[str, tuple[float, Example]] = {}
    for first, chunk in _tracked(windows):
        probabilities = np.full(len(chunk.starts), np.nan, dtype=np.float32)
        judged = np.flatnonzero(chunk.present[:, column])
        if len(judged):
            scored = predict_windows(
                network, chunk.signals[judged], chunk.present[judged], batch_size=batch_size, prior=prior
            )
            probabilities[judged] = scored.probabilities
            for title, sign in (("best window", 1.0), ("worst window", -1.0)):
                row = int(judged[np.argmax(sign * probabilities[judged])])
                value = sign * float(probabilities[row])
                if title not in extremes or value > extremes[title][0]:
                    extremes[title] = value, _example(title, chunk, row, first, windows.channels)
        parts.append((chunk.starts, probabilities, chunk.states))
    kept = [name in recording.channels for name in windows.channels]
    starts, found, states = (np.concatenate(part) for part in zip(*parts, strict=True))
    scores = Scores(
        starts=starts,
        seconds=WINDOW_SECONDS,
        probabilities=found,
        threshold=threshold,
        channels=tuple(np.array(windows.channels)[kept].tolist()),
        states=states[:, kept],
        reasons=STATES,
        start_time=recording.start_time,
    )
    examples = [example for _, example in extremes.values()]
    return scores, examples[: len({example.row for example in examples})], precision


def _example(title: str, chunk: WindowChunk, row: int, first: int, channels: tuple[str, ...]) -> Example:
    there = {
        name: chunk.signals[row, column].copy() for column, name in enumerate(channels) if chunk.present[row, column]
    }
    return Example(title, first + row, there)


def _tracked(windows: Windows) -> Iterator[tuple[int, WindowChunk]]:
    """Yield chunks with the number of their first window; a progress bar on a terminal."""
    first = 0
    with progress_bar("scoring windows", len(windows)) as progress:
        for chunk in windows:
            yield first, chunk
            first += len(chunk.starts)
            progress(len(chunk.starts))
