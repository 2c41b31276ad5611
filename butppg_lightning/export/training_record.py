"""Where a trained classifier comes from: data, training and metrics, as far as the files of its run still say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.console import say
from butppg_lightning.errors import UserError
from butppg_lightning.models.checkpoints import file_sha256, last_names
from butppg_lightning.npz import read_npz

if TYPE_CHECKING:
    from collections.abc import Mapping

    from butppg_lightning.npz import Array

_BEST, _TEST_METRICS = "best_model.pt", "test_metrics.json"
_MADE_UP = "generator_snr_db"  # a column that only `butppg mock` writes
_SPLITS = ("train", "val", "test")


def provenance(
    checkpoint: Path, content: Mapping[str, Any], threshold: float, test_metrics: Path | None = None
) -> dict[str, Any]:
    """Collect what a model card says of a checkpoint.

    Args:
        checkpoint: The checkpoint's file, or an exported model that is exported again.
        content: What is in it.
        threshold: Where the model's probabilities are cut.
        test_metrics: The metrics on test windows; None for the test_metrics.json beside a best_model.pt.

    Returns:
        ``metrics`` (validation), ``test_metrics``, ``data`` and ``training``, each a dict or None, and
        ``checkpoint_sha256``.

    Raises:
        UserError: If ``test_metrics`` cannot be read, or a split of the data is damaged.
    """
    metrics = _metrics_beside(checkpoint, threshold) if test_metrics is None else _read_metrics(test_metrics)
    if "format_version" in content:
        kept = {key: content.get(key) for key in ("metrics", "test_metrics", "data", "training", "checkpoint_sha256")}
        return {**kept, "test_metrics": metrics or kept["test_metrics"]}
    config = content.get("config")
    config = config if isinstance(config, dict) else {}
    return {
        "metrics": content.get("metrics"),
        "test_metrics": metrics,
        "data": _data(config.get("data"), checkpoint),
        "training": _training(config, content),
        "checkpoint_sha256": file_sha256(checkpoint),
    }


def _read_metrics(path: Path) -> dict[str, Any]:
    try:
        metrics = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        reason = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else "is no JSON"
        raise UserError(f"{path} {reason}; give the test_metrics.json of a run") from None
    if not isinstance(metrics, dict):
        raise UserError(f"{path} holds no metrics by name; give the test_metrics.json of a run")
    return {key: last_names(value) if isinstance(value, str) else value for key, value in metrics.items()}


def _metrics_beside(checkpoint: Path, threshold: float) -> dict[str, Any] | None:
    path = checkpoint.with_name(_TEST_METRICS)
    if checkpoint.name != _BEST or not path.is_file():  # those of a run are its best model's
        return None
    metrics = _read_metrics(path)
    cut = metrics.get("threshold", threshold)
    if isinstance(cut, (int, float)) and abs(cut - threshold) <= 1e-6:
        return metrics
    say(
        f"note: {path} was made at another threshold than {checkpoint.name} has now, so the card leaves it out; "
        "name a newer one with test_metrics"
    )
    return None


def _data(options: Any, checkpoint: Path) -> dict[str, Any] | None:
    if not isinstance(options, dict) or not isinstance(options.get("root"), str):
        return None
    root = Path(options["root"])
    splits, synthetic = {}, False
    for split in _SPLITS:
        path = root / f"{split}.npz"
        # a file that is newer than the model is not what it was trained on
        if path.is_file() and path.stat().st_mtime <= checkpoint.stat().st_mtime:
            arrays = read_npz(path)
            splits[split] = _counts(arrays)
            synthetic = synthetic or _MADE_UP in arrays
    return {"name": root.name, "splits": splits, "synthetic": synthetic}


def _counts(arrays: dict[str, Array]) -> dict[str, Any]:
    labels, subjects = arrays.get("labels"), arrays.get("subjects")
    return {
        "windows": len(arrays["signals"]) if "signals" in arrays else None,
        "good": int((np.asarray(labels) == 1).sum()) if labels is not None else None,
        "subjects": len(np.unique(np.asarray(subjects))) if subjects is not None else None,
    }


def _training(config: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
    model = config.get("model")
    pretrained = model.get("pretrained") if isinstance(model, dict) else None
    return {
        "epoch": content.get("epoch"),
        "stage": content.get("stage"),
        "pretrained": Path(*Path(pretrained).parts[-2:]).as_posix() if isinstance(pretrained, str) else None,
        "seed": config.get("seed_everything"),
        "versions": config.get("versions"),
    }
