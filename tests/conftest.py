"""Small recordings and encoders that every test can afford."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from butppg_lightning.models.encoder import PatchTransformer, init_args_of
from butppg_lightning.models.network import QualityNetwork
from butppg_lightning.models.prediction import predict_windows
from butppg_lightning.window import CHANNELS, PRETRAIN_CHANNELS, SAMPLING_RATE, WINDOW_SAMPLES, WindowSet

if TYPE_CHECKING:
    from collections.abc import Mapping

# two threads waiting for each other cost more than they bring on encoders this small
torch.set_num_threads(1)

TINY = {"patch_size": 50, "width": 32, "depth": 2, "heads": 2}
# one of each kind, small; the last one is a user's own
ENCODERS = {
    "PatchTransformer": {**TINY, "depth": 3, "dropout": 0.1},
    "SpectralEncoder": {"width": 8, "depth": 3, "dropout": 0.1, "input_dropout": 0.1},
    "TinyTimeMixer": {"patches": 4, "patch_size": 16, "width": 16, "levels": 2, "dropout": 0.1},
    "own_encoder.ConvEncoder": {"width": 8, "depth": 3},
}
NEEDS = {"TinyTimeMixer": "tsfm_public"}  # an extra that is not in dev, see .ci/constraints.txt
EVERY_ENCODER = [
    pytest.param(
        {"class_path": path, "init_args": sizes},
        id=path,
        marks=pytest.mark.skipif(path in NEEDS and not find_spec(NEEDS[path]), reason=f"{path} needs an extra"),
    )
    for path, sizes in ENCODERS.items()
]
REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def make_windows(count: int, seed: int = 0, subjects: str = "s") -> WindowSet:
    """Make labelled five-channel windows: a pulse when good, drowned by motion when poor."""
    generator = np.random.default_rng(seed)
    time = np.arange(WINDOW_SAMPLES) / SAMPLING_RATE
    labels = (np.arange(count) % 3 == 0).astype(np.int64)
    rate = generator.uniform(0.9, 2.0, (count, 1))
    pulse = np.sin(2 * np.pi * rate * time + generator.uniform(0, 6, (count, 1)))
    motion = generator.normal(size=(count, WINDOW_SAMPLES)).cumsum(axis=1) / 10
    ppg = 100 + pulse + (labels == 0)[:, None] * motion
    acc = generator.normal(0, 0.02, (count, 3, WINDOW_SAMPLES)) + np.array([0.0, 0.0, 1.0])[:, None]
    signals = np.concatenate([acc, ppg[:, None], np.cos(2 * np.pi * rate * time)[:, None]], axis=1)
    names = np.array([f"{subjects}{index % 4}" for index in range(count)])
    return WindowSet(signals.astype(np.float32), CHANNELS, labels=labels, subjects=names)


def logits_of(network: QualityNetwork, signals: np.ndarray, present: np.ndarray | None = None) -> torch.Tensor:
    """Return the logits of raw windows in float32, through the one prediction path."""
    return torch.from_numpy(predict_windows(network, signals, present, precision="32-true").logits)


def save_classifier(path: Path, **options: Any) -> Path:
    """Write a checkpoint of an untrained classifier whose windows get different probabilities."""
    from butppg_lightning.tasks.classifier import PPGQualityClassifier  # lightning: most tests do without

    torch.manual_seed(3)
    model = PPGQualityClassifier(encoder={"init_args": TINY}, **options)
    torch.nn.init.normal_(model.network.head.score.weight, std=2.0)
    content = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    torch.save({**content, "pytorch-lightning_version": "2.6.6"}, path)
    return path


def encoder_flags(options: Mapping[str, object] = TINY) -> list[str]:
    """Return the flags that give the encoder these options."""
    return [f"--model.encoder.init_args.{key}={value}" for key, value in options.items()]


@pytest.fixture
def predictions() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, probabilities with ties, and subjects of 120 windows."""
    generator = np.random.default_rng(0)
    labels = (generator.random(120) < 0.3).astype(np.int64)
    scores = np.round(1 / (1 + np.exp(-generator.normal(1.5 * labels - 1, 1))), 2)
    return labels, scores, np.repeat([f"s{number}" for number in range(8)], 15)


@pytest.fixture
def windows() -> WindowSet:
    return make_windows(24)


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train, val and test splits of different subjects."""
    folder = tmp_path_factory.mktemp("but_ppg")
    for seed, (split, count) in enumerate({"train": 36, "val": 15, "test": 18}.items()):
        make_windows(count, seed, subjects=split).save(folder / f"{split}.npz")
    return folder


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny two-channel encoder as `butppg pretrain` would leave it."""
    torch.manual_seed(1)
    encoder = PatchTransformer(PRETRAIN_CHANNELS, **TINY)
    path = tmp_path_factory.mktemp("foundation") / "best_model.pt"
    spec = {"class_path": "butppg_lightning.PatchTransformer", "init_args": init_args_of(encoder)}
    torch.save({"encoder_state_dict": encoder.state_dict(), "hyper_parameters": {"encoder": spec}}, path)
    return path
