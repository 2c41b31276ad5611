"""The README.md of a model that is given away: what it is for, where it comes from, its test metrics, where it ends."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from butppg_lightning.console import say
from butppg_lightning.errors import UserError
from butppg_lightning.extras import require
from butppg_lightning.files import file_sha256
from butppg_lightning.models.about import ABOUT_KEY
from butppg_lightning.models.checkpoints import ORIGIN_KEYS, last_names, stored_options
from butppg_lightning.models.training_range import RANGE_KEY
from butppg_lightning.npz import read_npz

if TYPE_CHECKING:
    from collections.abc import Mapping

GENERATED = "<!-- written by butppg_lightning; delete this line to keep the text when the model is saved again -->"
"""A README with this line is replaced when the model is saved again."""

_METRICS = (  # key, title, unit
    ("accuracy", "accuracy", "%"),
    ("majority_accuracy", "accuracy of the constant answer", "%"),
    ("balanced_accuracy", "balanced accuracy", "%"),
    ("class_1_acc", "good windows kept", "%"),
    ("class_0_acc", "poor windows refused", "%"),
    ("auroc", "AUROC", ""),
    ("auprc", "AUPRC", ""),
    ("f1", "F1", ""),
    ("mcc", "MCC", ""),
    ("ece", "expected calibration error", ""),
)
_INDEXED = {"accuracy": ("accuracy", 0.01), "auroc": ("roc_auc", 1.0), "f1": ("f1", 1.0)}
_BEST, _TEST_METRICS = "best_model.pt", "test_metrics.json"
_MADE_UP = "generator_snr_db"  # a column that only `butppg mock` writes
_SPLITS = ("train", "val", "test")


def model_card(content: Mapping[str, Any], name: str) -> str:
    """Write the card of the model ``name``: `model_card.md.j2`, filled in. Markdown with a YAML header as hubs read it.

    ``content`` is the JSON of an exported model, with what :func:`provenance` found.
    """
    environment = require("jinja2").Environment(trim_blocks=True, keep_trailing_newline=True)
    environment.filters["count"] = _count
    environment.filters["percent"] = lambda share: f"{100 * share:.1f} %"
    test, data, training, about = (
        _mapping(content.get(key)) for key in ("test_metrics", "data", "training", ABOUT_KEY)
    )
    dropout = _mapping(stored_options(content).get("channel_dropout"))
    recorded = _mapping(content.get(RANGE_KEY)).get("channels", content["channels"])  # in any training window
    tested = _mapping(_mapping(data.get("splits")).get("test"))
    template = environment.from_string(Path(__file__).with_suffix(".md.j2").read_text(encoding="utf-8"))
    text = template.render(
        header=f"---\n{yaml.safe_dump(_header(content, name), sort_keys=False, allow_unicode=True)}---\n",
        generated=GENERATED,
        name=name,
        model=content,
        data=data,
        training=training,
        about=about,
        test=test,
        metrics=_rows(test or _mapping(content.get("metrics"))),
        never_withheld=[name for name in recorded if name != "PPG" and not dropout.get(name, dropout.get(name[:3], 0))],
        origin=_origin(content, training),
        over=f" ({_count(tested.get('windows'))} windows of {_count(tested.get('subjects'))} subjects)"
        if tested
        else "",
    )
    return re.sub(r"\n{3,}", "\n\n", text)


def _header(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    header: dict[str, Any] = {
        "license": str(content["licence"]).lower(),
        "library_name": "butppg_lightning",
        "tags": ["photoplethysmography", "ppg", "signal-quality", "time-series-classification"],
    }
    if test := _mapping(content.get("test_metrics")):
        dataset = str(_mapping(content.get("data")).get("name", "unnamed"))
        result = {
            "task": {"type": "time-series-classification", "name": "PPG signal quality"},
            "dataset": {"name": f"{dataset}, test split", "type": dataset},
            "metrics": [
                {"type": kind, "value": round(test[key] * factor, 4)}
                for key, (kind, factor) in _INDEXED.items()
                if _is_number(test.get(key))
            ],
        }
        header["model-index"] = [{"name": name, "results": [result]}]
    return header


def _rows(metrics: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return title, value and 95 % interval of each metric that is there."""
    rows = []
    for key, title, unit in _METRICS:
        if _is_number(value := metrics.get(key)):
            edges = metrics.get(f"{key}_ci95")
            known = isinstance(edges, list) and len(edges) == 2 and all(map(_is_number, edges))
            interval = f"{edges[0]:.3f} to {edges[1]:.3f}" if known and edges else ""
            rows.append((title, f"{value:.1f} %" if unit else f"{value:.3f}", interval))
    return rows


def _origin(content: Mapping[str, Any], training: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: training[key] for key in ("epoch", "stage", "seed") if training.get(key) is not None}
    versions = {**_mapping(training.get("versions")), "butppg_lightning": None}
    digest = content.get("checkpoint_sha256")
    return {
        "package": f"butppg_lightning {content['package_version']}",
        **found,
        **{key: value for key, value in versions.items() if value is not None},
        **({"checkpoint (SHA-256)": f"`{digest}`"} if digest else {}),
    }


def provenance(
    checkpoint: Path, content: Mapping[str, Any], threshold: float, test_metrics: Path | None = None
) -> dict[str, Any]:
    """Collect what a model card says of a checkpoint, as far as the files of its run still tell.

    Args:
        checkpoint: The checkpoint's file, or an exported model that is exported again.
        content: What is in it.
        threshold: Where the model's probabilities are cut.
        test_metrics: The metrics on test windows; None for the test_metrics.json beside a best_model.pt.

    Returns:
        ``metrics`` (validation), ``test_metrics``, ``data``, ``training``, each a dict or None; ``checkpoint_sha256``.
    """
    metrics = _metrics_beside(checkpoint, threshold) if test_metrics is None else _read_metrics(test_metrics)
    if "format_version" in content:
        kept = {key: content[key] for key in ORIGIN_KEYS if key in content}
        return {**kept, "test_metrics": metrics or kept.get("test_metrics")}
    config = _mapping(content.get("config"))
    pretrained = _mapping(config.get("model")).get("pretrained")
    return {
        "metrics": content.get("metrics"),
        "test_metrics": metrics,
        "data": _data(_mapping(config.get("data")), checkpoint),
        "training": {
            "epoch": content.get("epoch"),
            "stage": content.get("stage"),
            "pretrained": Path(*Path(pretrained).parts[-2:]).as_posix() if isinstance(pretrained, str) else None,
            "seed": config.get("seed_everything"),
            "versions": config.get("versions"),
        },
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


def _data(options: Mapping[str, Any], checkpoint: Path) -> dict[str, Any] | None:
    if not isinstance(options.get("root"), str):
        return None
    root = Path(options["root"])
    splits, synthetic = {}, False
    for split in _SPLITS:
        path = root / f"{split}.npz"
        # a file that is newer than the model is not what it was trained on
        if path.is_file() and path.stat().st_mtime <= checkpoint.stat().st_mtime:
            arrays = read_npz(path)
            labels, subjects = arrays.get("labels"), arrays.get("subjects")
            splits[split] = {
                "windows": len(arrays["signals"]) if "signals" in arrays else None,
                "good": int((np.asarray(labels) == 1).sum()) if labels is not None else None,
                "subjects": len(np.unique(np.asarray(subjects))) if subjects is not None else None,
            }
            synthetic = synthetic or _MADE_UP in arrays
    return {"name": root.name, "splits": splits, "synthetic": synthetic}


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "unknown"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
