"""The README.md of a model that is given away: what it is for, what it was trained and tested on, where it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

GENERATED = "<!-- written by butppg_lightning; delete this line to keep the text when the model is saved again -->"
"""A README with this line is replaced when the model is saved again."""

_FIGURES = (  # key, title, unit
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
    """Write the card of a model.

    Args:
        content: The JSON of a portable model, with what
            :func:`~butppg_lightning.export.training_record.provenance` found.
        name: The model's name: of its folder, or on a hub.

    Returns:
        Markdown with a YAML header as model hubs read it.
    """
    sections = [
        f"---\n{yaml.safe_dump(_header(content, name), sort_keys=False, allow_unicode=True)}---",
        GENERATED,
        f"# {name}",
        _summary(content),
        _loading(content, name),
        "## Intended use\n\n"
        "Deciding which stretches of a PPG recording are good enough to compute heart rate or other figures from, in "
        "research and development. It is no medical device: it must not be used alone to diagnose, to alarm or to "
        "decide on treatment.",
        _data(content.get("data"), content.get("training")),
        _figures(content.get("test_metrics"), content.get("metrics"), content.get("data")),
        _thresholds(content),
        _limits(content),
        _licence(content),
        _trace(content),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _header(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    header: dict[str, Any] = {
        "license": str(content["licence"]).lower(),
        "library_name": "butppg_lightning",
        "tags": ["photoplethysmography", "ppg", "signal-quality", "time-series-classification"],
    }
    figures, data = content.get("test_metrics"), content.get("data") or {}
    if isinstance(figures, dict):
        metrics = [
            {"type": kind, "value": round(figures[key] * factor, 4)}
            for key, (kind, factor) in _INDEXED.items()
            if isinstance(figures.get(key), (int, float))
        ]
        dataset = {"name": f"{data.get('name', 'unnamed')}, test split", "type": str(data.get("name", "unnamed"))}
        result = {
            "task": {"type": "time-series-classification", "name": "PPG signal quality"},
            "dataset": dataset,
            "metrics": metrics,
        }
        header["model-index"] = [{"name": name, "results": [result]}]
    return header


def _summary(content: Mapping[str, Any]) -> str:
    rows = [
        (channel, unit if unit != "any" else "any (scaled per window)") for channel, unit in content["units"].items()
    ]
    return (
        f"Tells usable from unusable {content['window_seconds']:g}-s windows of photoplethysmograms (PPG). The answer "
        "is the probability that a window is good.\n\n"
        f"A window has the channels {', '.join(content['channels'])}, in this order, {content['window_samples']} "
        f"samples each at {content['fs']} Hz, unfiltered and unscaled: filtering and scaling are part of the model. A "
        "channel that was not recorded is told (`present` False, samples 0). Flat and railed channels are found by the "
        "model and count as not recorded.\n\n" + _table(("channel", "unit"), rows)
    )


def _loading(content: Mapping[str, Any], name: str) -> str:
    return f"""## How to load

```python
from butppg_lightning import PPGQualityClassifier

model = PPGQualityClassifier.from_pretrained("{name}")  # this folder, or its name on the hub
probability = model.predict_probabilities(signals)  # [N, {len(content["channels"])}, {content["window_samples"]}]
good = probability >= model.threshold()
```

A long recording, from the command line: `butppg score --checkpoint model.safetensors --input night.edf --output-dir
night`. Install with `pip install 'butppg-lightning[export]'`. The weights are safetensors and the rest is JSON:
loading runs no code of the model's author."""


def _data(data: Any, training: Any) -> str:
    lines = ["## Data"]
    data = data if isinstance(data, dict) else {}
    training = training if isinstance(training, dict) else {}
    splits = data.get("splits") or {}
    lines.append(f"Trained on `{data['name']}`." if data.get("name") else "The data it was trained on is not recorded.")
    if splits:
        rows = [
            (split, *map(_count, (found["windows"], found["good"], found["subjects"])))
            for split, found in splits.items()
        ]
        lines.append(_table(("split", "windows", "good", "subjects"), rows))
        if data.get("synthetic"):
            lines.append("**The windows are synthetic (`butppg mock`): the figures say nothing of real recordings.**")
        lines.append("No subject is in two splits, unless the run was told to allow it.")
    elif data:
        lines.append("Numbers of windows and subjects are not recorded.")
    if training.get("pretrained"):
        lines.append(f"The encoder was pretrained (`{training['pretrained']}`).")
    return "\n\n".join(lines)


def _figures(test: Any, validation: Any, data: Any) -> str:
    if isinstance(test, dict):
        rows = []
        for key, title, unit in _FIGURES:
            value, edges = test.get(key), test.get(f"{key}_ci95")
            if isinstance(value, (int, float)):
                rows.append((title, _number(value, unit), _interval(edges)))
        splits = data.get("splits") if isinstance(data, dict) else None
        found = (splits or {}).get("test") or {}
        over = f" ({_count(found['windows'])} windows of {_count(found['subjects'])} subjects)" if found else ""
        text = [f"## Figures on the test split{over}", _table(("figure", "value", "95 % interval"), rows)]
        if test.get("selected_on_test"):
            text.append(
                "**There was no validation split: the model was selected on these windows, which flatters it.**"
            )
        text.append("Intervals come from resampling whole subjects where they are known (bootstrap), else windows.")
        return "\n\n".join(text)
    text = ["## Figures", "No figures on test windows are recorded."]
    if isinstance(validation, dict):
        found = [
            (title, _number(validation[key], unit)) for key, title, unit in _FIGURES if _is_number(validation.get(key))
        ]
        text += ["On the validation windows, which chose the epoch, so that these figures flatter:"]
        text += [_table(("figure", "value"), found)]
    return "\n\n".join(text)


def _thresholds(content: Mapping[str, Any]) -> str:
    points, calibration = content.get("operating_points"), content.get("calibration")
    if not points or not isinstance(calibration, dict):
        return (
            "## Thresholds\n\nThe model is not calibrated: its probabilities are those of training, and 0.5 is the "
            "threshold. `butppg calibrate` fits both on labelled windows of yours."
        )
    rows = [
        (
            name,
            f"{point['threshold']:.4f}",
            *(f"{100 * point[key]:.1f} %" for key in ("sensitivity", "specificity", "precision")),
        )
        for name, point in points.items()
    ]
    return (
        f"## Thresholds\n\nCalibrated on {calibration['source']}, of which {100 * calibration['prior']:.1f} % were "
        "good; where that share is another, give it (`--prior`). The shares are those of the same windows.\n\n"
        + _table(("operating point", "threshold", "sensitivity", "specificity", "precision"), rows)
    )


def _limits(content: Mapping[str, Any]) -> str:
    options = content.get("hyper_parameters") or {}
    dropout = options.get("channel_dropout") or {}
    never = [name for name in content["channels"] if name != "PPG" and not dropout.get(name, dropout.get(name[:3], 0))]
    lines = [
        "- Quality is what the labels of the training data say it is; other studies define it otherwise.",
        "- Other devices, places on the body, skin tones, ages and diseases than those of the training data are "
        "untested. Arrhythmia makes a good window look irregular.",
        "- The figures are those of windows; few subjects mean wide intervals, and a new device may lie outside them.",
        "- A probability holds where as many windows are good as in the calibration data; the ranking carries further.",
    ]
    if never:
        lines.append(
            f"- {', '.join(never)} {'was' if len(never) == 1 else 'were'} never withheld in training: without "
            f"{'it' if len(never) == 1 else 'them'} the probabilities may be off."
        )
    return "## Limits\n\n" + "\n".join(lines)


def _licence(content: Mapping[str, Any]) -> str:
    return (
        f"## Licence\n\n{content['licence']}. The terms of the data it was trained on may ask for more, such as naming "
        "their authors (BUT PPG is CC BY 4.0)."
    )


def _trace(content: Mapping[str, Any]) -> str:
    training = content.get("training") or {}
    rows = [("package", f"butppg_lightning {content['package_version']}")]
    rows += [(key, str(training[key])) for key in ("epoch", "stage", "seed") if training.get(key) is not None]
    rows += [(key, str(value)) for key, value in (training.get("versions") or {}).items() if key != "butppg_lightning"]
    if content.get("checkpoint_sha256"):
        rows.append(("checkpoint (SHA-256)", f"`{content['checkpoint_sha256']}`"))
    return "## Where it comes from\n\n" + _table(("", ""), rows)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _number(value: float, unit: str) -> str:
    return f"{value:.1f} %" if unit else f"{value:.3f}"


def _interval(edges: Any) -> str:
    if not isinstance(edges, list) or len(edges) != 2 or not all(_is_number(edge) for edge in edges):
        return ""
    return f"{edges[0]:.3f} to {edges[1]:.3f}"


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "unknown"
