"""What a dataset serves while features are stored."""

import numpy as np
import pytest
import torch
from conftest import make_windows

from butppg_lightning.data.dataset import WindowDataset
from butppg_lightning.data.features import Features
from butppg_lightning.window import CHANNELS

ROWS = torch.arange(24.0).view(12, 2)


def dataset(count: int = 12) -> WindowDataset:
    return WindowDataset(make_windows(count), CHANNELS)


def test_rows_are_served_in_the_order_asked_for() -> None:
    batch = Features([ROWS], "pooled", None).batch(np.array([5, 0, 5]))
    assert batch["depth"] == "pooled"
    assert torch.equal(batch["features"], ROWS[[5, 0, 5]])


def test_a_part_of_the_rows_is_found_by_its_numbers() -> None:
    kept = np.array([1, 4, 9])
    features = Features([ROWS[:3]], 2, kept)
    assert torch.equal(features.batch(np.array([9, 1]))["features"], ROWS[[2, 0]])


@pytest.mark.parametrize("row", [0, 2, 5, 10])
def test_a_row_that_was_not_stored_is_an_error(row: int) -> None:
    with pytest.raises(IndexError, match="not stored"):
        Features([ROWS[:3]], 2, np.array([1, 4, 9])).batch(np.array([1, row]))


def test_views_are_served_one_at_a_time() -> None:
    features = Features([ROWS, ROWS + 100], 2, None)
    assert torch.equal(features.batch(np.array([3]))["features"], ROWS[[3]])
    features.view = 1
    assert torch.equal(features.batch(np.array([3]))["features"], ROWS[[3]] + 100)


def test_a_dataset_serves_features_in_place_of_signals_with_all_else() -> None:
    served = dataset()
    plain = served[torch.tensor([3, 7])]
    served.features = Features([ROWS], 1, None)
    stored = served[torch.tensor([3, 7])]
    assert set(stored) == set(plain) - {"signals", "present"} | {"features", "depth"}
    for key in ("index", "labels"):
        assert torch.equal(stored[key], plain[key])
    assert set(served.fetch(np.array([3]))) == {"signals", "present"}, "the windows stay within reach"
    served.features = None
    assert torch.equal(served[torch.tensor([3, 7])]["signals"], plain["signals"])


def test_a_fingerprint_knows_everything_the_features_depend_on() -> None:
    def changed(**values: object) -> str:
        windows = make_windows(12)
        for key, value in values.items():
            setattr(windows, key, value)
        return WindowDataset(windows, CHANNELS).fingerprint()

    signals = make_windows(12).signals
    one_sample = signals.copy()
    one_sample[11, 4, 1249] += 1
    present = np.ones((12, 5), dtype=bool)
    present[3, 2] = False
    found = {
        "as it is": dataset().fingerprint(),
        "one sample": changed(signals=one_sample),
        "order": changed(signals=signals[::-1].copy()),
        "type": changed(signals=signals.astype(np.float64)),
        "byte order": changed(signals=signals.astype(">f4")),
        "absent": changed(present=present),
        "other absent": changed(present=present[::-1].copy()),
        "names": changed(channels=CHANNELS[::-1]),
        "count": dataset(11).fingerprint(),
        "wanted": WindowDataset(make_windows(12), ("PPG", "ECG")).fingerprint(),
    }
    assert len(set(found.values())) == len(found)
    assert found["as it is"] == changed(labels=None, subjects=None), "labels change no feature"
