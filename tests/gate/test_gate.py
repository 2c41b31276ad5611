"""The gate's makers: a pulse is known by its ECG, motion lowers what is left of it, one command makes and judges it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from butppg_lightning.models.checkpoints import restore_network
from butppg_lightning.shipped import locate
from butppg_lightning.sources.synthetic.generate import synthesize
from butppg_lightning.window import WindowSet, read_windows
from gate import command
from gate.recorded import LICENSED, agreement, read_recorded, wide_band
from gate.spoil import other_device, spoil

HOME = Path(__file__).parents[2]


def patients(count: int, seed: int) -> WindowSet:
    windows = synthesize(count, seed=seed)
    ppg_and_ecg = [windows.channels.index(name) for name in ("PPG", "ECG")]
    subjects = np.array([f"{seed}-{row % 12:02}" for row in range(count)])
    extras = {"labels_hr": np.asarray(windows.labels), "rhythm": np.where(np.arange(count) % 3, "SR", "AF")}
    order = {"record": subjects, "t0": 10.0 * (np.arange(count) // 12)}
    signals = windows.signals[:, ppg_and_ecg]
    return replace(
        windows, signals=signals, channels=("PPG", "ECG"), subjects=subjects, extras=extras | order, present=None
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for seed, name in enumerate((*LICENSED, "mimic_perform_af/windows.npz")):
        windows = patients(180 if seed == 0 else 60, seed)
        (windows if name.startswith("cinc") else replace(windows, labels=None)).save(folder / name)
    synthesize(60, seed=5).save(folder / "spc2015_dev" / "windows.npz")
    return folder


def test_a_pulse_is_known_by_its_ecg(data: Path) -> None:
    found = read_recorded(data, ["cinc2015/windows.npz"])
    assert found.agreement[found.labels == 1].mean() > found.agreement[found.labels == 0].mean() + 0.2
    assert agreement(np.arange(0.3, 10, 0.8), np.arange(0.6, 10, 0.8)) == 1
    assert agreement(np.arange(0.3, 10, 0.8), np.arange(0.6, 10, 0.5)) < 0.8
    upright = (np.diff(wide_band(found.ppg[found.clean])) ** 3).mean(1)
    assert (upright > 0).all()
    assert (found.following == np.where(np.arange(180) < 168, np.arange(180) + 12, -1)).all()


def test_what_is_left_of_a_pulse_falls_with_what_is_added() -> None:
    rng, time = np.random.default_rng(0), np.arange(1250) / 125
    pulse = other_device(rng, np.exp(3 * np.sin(2 * np.pi * 1.2 * time)))
    spoilt = [spoil(rng, pulse) for _ in range(300)]
    added = np.array([np.sqrt(((window.ppg - pulse) ** 2).mean()) for window in spoilt])
    left = np.array([window.left for window in spoilt])
    assert left[added < 0.2].mean() > 0.95
    assert left[added > 3].mean() < 0.2
    assert all(np.isfinite(window.ppg).all() for window in spoilt)


def test_one_command_makes_judges_and_exports_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "_PRETRAINING", "--config pretrain.yaml --config tiny.yaml --trainer.max_epochs 1")
    monkeypatch.setattr(command, "_FIT", "--config gate.yaml --trainer.max_epochs 2 --data.batch_size 32")
    words = ["--data", str(data), "--work", str(tmp_path / "work"), "--output", str(tmp_path / "gate")]
    words += ["--about", str(HOME / ".ci" / "gate.yaml")]
    assert command.main(words) == 0
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.npz")}
    train, val = (
        read_windows(tmp_path / "work" / "windows" / f"{name}.npz", labelled=True) for name in ("train", "val")
    )
    assert not set(np.asarray(train.subjects)) & set(np.asarray(val.subjects))
    assert np.ptp(np.asarray(train.soft_labels)) == 1
    assert set(np.asarray(train.weights)) == {1.0, 3.0}
    figures = yaml.safe_load((tmp_path / "work" / "figures" / "figures.yaml").read_text())["figures"]
    assert {row["set"] for row in figures} >= {"SPC 2015", "MIMIC PERform AF, clean AF"}
    network, _ = restore_network(locate(tmp_path / "gate"))
    assert network.used_channels == ("PPG",)
    card = (tmp_path / "gate" / "README.md").read_text()
    assert "ODC-By" in card
    assert "never withheld" not in card, "ECG and acceleration were never there"
    assert command.main(words) == 0
    assert made == {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.npz")}, "nothing anew"
    assert command.main(["--data", str(tmp_path), *words[2:]]) == 2
    assert "the gate is made of it" in capsys.readouterr().err
