"""Where a trained classifier comes from: data, training and figures, as far as the files of its run still tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.console import say
from butppg_lightning.errors import UserError
from butppg_lightning.models.checkpoints.description import last_names
from butppg_lightning.npz import read_npz

if TYPE_CHECKING:
    from collections.abc import Mapping

    from butppg_lightning.npz import Array

_BEST, _TEST_METRICS = "best_model.pt", "test_metrics.json"
_MADE_UP = "generator_snr_db"  # a column that only `butppg mock` writes
_SPLITS = ("train", "val", "test")
_CARRIED = ("metrics", "test_metrics", "data", "training")  # what an exported model tells of itself


def provenance(
    checkpoint: Path, content: Mapping[str, Any], threshold: float, test_metrics: Path | None = None
) -> dict[str, Any]:
    """Collect what a model card tells of a checkpoint.

    Args:
        checkpoint: The checkpoint's file.
        content: What is in it.
        threshold: Where the model's probabilities are cut.
        test_metrics: The figures on test windows; None for the test_metrics.json beside a best_model.pt.

    Returns:
        ``metrics`` (validation), ``test_metrics``, ``data`` and ``training``, each a dict or None.

    Raises:
        UserError: If ``test_metrics`` cannot be read, or a split of the data is damaged.
    """
    figures = _figures_beside(checkpoint, threshold) if test_metrics is None else _read_figures(test_metrics)
    if "format_version" in content:  # an exported model that is exported again
        told = {key: content.get(key) for key in _CARRIED}
        return {**told, "test_metrics": figures or told["test_metrics"]}
    config = content.get("config")
    config = config if isinstance(config, dict) else {}
    return {
        "metrics": content.get("metrics"),
        "test_metrics": figures,
        "data": _data(config.get("data"), checkpoint),
        "training": _training(config, content),
    }


def _read_figures(path: Path) -> dict[str, Any]:
    try:
        figures = json.loads(Path(path).read_text())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; give the test_metrics.json of a run") from None
    except ValueError:
        raise UserError(f"{path} is no JSON; give the test_metrics.json of a run") from None
    if not isinstance(figures, dict):
        raise UserError(f"{path} holds no figures by name; give the test_metrics.json of a run")
    return {key: last_names(value) if isinstance(value, str) else value for key, value in figures.items()}


def _figures_beside(checkpoint: Path, threshold: float) -> dict[str, Any] | None:
    path = checkpoint.with_name(_TEST_METRICS)
    if checkpoint.name != _BEST or not path.is_file():  # those of a run are its best model's
        return None
    figures = _read_figures(path)
    cut = figures.get("threshold", threshold)
    if not isinstance(cut, (int, float)) or abs(cut - threshold) > 1e-6:
        say(
            f"note: {path} was made at another threshold than {checkpoint.name} has now, so the card leaves it out; "
            "name a newer one with test_metrics"
        )
        return None
    return figures


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
