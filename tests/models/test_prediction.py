"""Predictions: the same whatever the batch and what else is asked for, and an error leaves nothing behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import TINY, make_windows

from butppg_lightning import PPGQualityClassifier
from butppg_lightning.errors import UserError
from butppg_lightning.models.prediction import predict, predict_windows
from butppg_lightning.models.training_range import fit_range, range_indices
from butppg_lightning.window import CHANNELS

WINDOWS = make_windows(40, seed=5)
SIGNALS = torch.from_numpy(WINDOWS.signals)
PRESENT = torch.ones(SIGNALS.shape[:2], dtype=torch.bool)
PRESENT[::3, :3] = False
PRESENT[7, CHANNELS.index("PPG")] = False


def classifier(**options: object) -> PPGQualityClassifier:
    torch.manual_seed(0)
    model = PPGQualityClassifier(encoder={"init_args": TINY}, **options).eval()
    with torch.no_grad():
        for parameter in model.network.head.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize(
    "options",
    [
        {"head": "linear"},
        {"head": "probe", "indices": ["rhythm"], "encoder_channels": ["PPG"]},
        {"head": "monotone", "indices": ["intervals", "ppg", "rhythm"]},
        {"head": "probe", "indices": ["ppg", "ecg"], "preprocess": {"polarity": "recorded"}},
    ],
)
def test_comparing_with_the_training_range_moves_no_logit(options: dict) -> None:
    """What both need is computed once, unless it is not the same."""
    network = classifier(**options).network
    network.training_range = known = fit_range(CHANNELS, SIGNALS, PRESENT, torch.from_numpy(WINDOWS.labels))
    with torch.no_grad():
        wanted = network(SIGNALS, PRESENT).numpy()
    plain = predict_windows(network, SIGNALS, PRESENT, batch_size=7)
    compared = predict_windows(network, SIGNALS, PRESENT, batch_size=16, compare=True)
    for found in (plain, compared):
        np.testing.assert_allclose(found.logits, wanted, atol=1e-5)
    alone = range_indices(CHANNELS)
    deviations = known.deviations(alone.known(SIGNALS, torch.from_numpy(compared.faults == 0)), alone.names)
    np.testing.assert_allclose(compared.deviations, deviations, atol=1e-4)
    assert plain.deviations is None


def test_an_error_comes_out_and_the_threads_are_as_before() -> None:
    network, before, done = classifier().network, torch.get_num_threads(), []
    batches = [{"signals": SIGNALS}, {"signals": SIGNALS[:, :4]}]
    with pytest.raises(UserError, match="signals have shape"):
        predict(network, batches, batch_size=8, progress=done.append)
    assert torch.get_num_threads() == before
    assert sum(predict(network, batches[:1], batch_size=8, progress=done.append).judged) == len(SIGNALS)
    assert sum(done) >= len(SIGNALS)


@pytest.mark.parametrize(
    ("options", "read"),
    [
        ({"head": "monotone", "indices": ["rhythm"]}, set()),
        ({"head": "probe", "encoder_channels": ["PPG"]}, {"PPG"}),
        ({"head": "probe"}, set(CHANNELS)),
    ],
)
def test_what_nobody_reads_is_not_prepared(options: dict, read: set[str]) -> None:
    network = classifier(**options).network
    scaled = network.prepare(SIGNALS).scaled
    whole = network.preprocess.prepare(SIGNALS)[0]
    for row, name in enumerate(CHANNELS):
        assert torch.equal(scaled[:, row], whole[:, row] if name in read else torch.zeros_like(whole[:, row]))
