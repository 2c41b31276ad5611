"""The README.md of a model that is given away: what it is for, what it was trained and tested on, where it ends."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from butppg_lightning.extras import require

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


def model_card(content: Mapping[str, Any], name: str) -> str:
    """Write the card of a model: `model_card.md.j2`, filled in.

    Args:
        content: The JSON of a portable model, with what
            :func:`~butppg_lightning.export.training_record.provenance` found.
        name: The model's name: of its folder, or on a hub.

    Returns:
        Markdown with a YAML header as model hubs read it.
    """
    template_engine = require("jinja2")

    environment = template_engine.Environment(trim_blocks=True, keep_trailing_newline=True)
    environment.filters["count"] = _count
    environment.filters["percent"] = lambda share: f"{100 * share:.1f} %"
    test, data, training = (_mapping(content.get(key)) for key in ("test_metrics", "data", "training"))
    tested = _mapping(_mapping(data.get("splits")).get("test"))
    template = environment.from_string(Path(__file__).with_suffix(".md.j2").read_text(encoding="utf-8"))
    text = template.render(
        header=f"---\n{yaml.safe_dump(_header(content, name), sort_keys=False, allow_unicode=True)}---\n",
        generated=GENERATED,
        name=name,
        model=content,
        data=data,
        training=training,
        test=test,
        metrics=_rows(test or _mapping(content.get("metrics"))),
        never_withheld=_never_withheld(content),
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


def _never_withheld(content: Mapping[str, Any]) -> list[str]:
    dropout = _mapping(_mapping(content.get("hyper_parameters")).get("channel_dropout"))
    return [name for name in content["channels"] if name != "PPG" and not dropout.get(name, dropout.get(name[:3], 0))]


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


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "unknown"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
