"""`butppg inspect PATH`: what a checkpoint, an npz file or a run folder contains."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.console import print_table
from butppg_lightning.data.store import STORE_SUFFIX, read_store
from butppg_lightning.errors import UserError
from butppg_lightning.shipped import locate
from butppg_lightning.window import SAMPLING_RATE, read_windows

if TYPE_CHECKING:
    from collections.abc import Iterable

_DESCRIBED = (".npz", STORE_SUFFIX, ".pt", ".ckpt", ".json", ".yaml")
_HISTORY = "training_history.json"


def inspect(path: Path) -> None:
    """Say what a checkpoint, an npz file or store of windows, a data folder or a run folder contains.

    Args:
        path: The file or folder; or shipped: the package's gate.

    Raises:
        UserError: If it does not exist, or is none of these.

    Example:
        butppg inspect artifacts/but_ppg_finetuned/best_model.pt
    """
    if not (path / _HISTORY).is_file():  # a run whose model was exported into its folder is still a run
        path = locate(path)
    if path.suffix == STORE_SUFFIX and path.is_dir():
        _windows(path)
    elif path.is_dir():
        _folder(path)
    elif not path.is_file():
        raise UserError(f"{path} does not exist")
    elif path.suffix == ".npz" or _is_npz(path):
        _windows(path)
    else:
        _checkpoint(path)


def _folder(path: Path) -> None:
    files = sorted(item for item in path.iterdir() if item.suffix in _DESCRIBED)
    if not files:
        raise UserError(f"{path} holds neither npz files nor a run")
    sizes = [sum(part.stat().st_size for part in (item.iterdir() if item.is_dir() else [item])) for item in files]
    names = [item.name for item in files]
    print_table(str(path), None, ((name, f"{size / 1e6:,.2f} MB") for name, size in zip(names, sizes, strict=True)))
    metrics, history = path / "test_metrics.json", path / _HISTORY
    if metrics.is_file():
        _print(metrics.name, json.loads(metrics.read_text()).items())
    if history.is_file():
        _stages(json.loads(history.read_text()), path / "last.ckpt")


def _stages(history: dict[str, Any], last: Path) -> None:
    from butppg_lightning.models.checkpoints import read_checkpoint
    from butppg_lightning.training.stage_plan import STAGE_COLUMNS, stage_rows

    if history.get("stage"):
        stored = read_checkpoint(last)["callbacks"].get("StageRecord", {}) if last.is_file() else {}
        print_table("Stages of this run", STAGE_COLUMNS, stage_rows(history, stored.get("seconds", [])))
    if ended := history.get("cut_off"):
        print(f"This run was cut off {ended}.")


def _windows(path: Path) -> None:
    windows = read_store(path) if path.is_dir() else read_windows(path, labelled=False)
    signals = windows.signals
    mapped = path.is_dir() or isinstance(signals, np.memmap)
    rows = [
        ("windows", f"{len(windows):,}"),
        ("shape", f"{list(signals.shape)} {signals.dtype}, {SAMPLING_RATE} Hz"),
        ("stored", "uncompressed, memory-mapped" if mapped else "compressed, read"),
    ]
    if windows.labels is not None:
        good = int(windows.labels.sum())
        rows.append(("labels", f"{good:,} good, {len(windows) - good:,} poor ({100 * good / len(windows):.1f} % good)"))
    if windows.subjects is not None:
        rows.append(("subjects", f"{len(np.unique(np.asarray(windows.subjects)))}"))
    if windows.hr_ref is not None:
        known = windows.hr_ref[np.isfinite(windows.hr_ref)]
        rows.append(("hr_ref", f"{known.min():.0f} to {known.max():.0f} bpm" if known.size else "unknown throughout"))
    rows += [(key, f"{list(value.shape)} {value.dtype}") for key, value in windows.extras.items()]
    print_table(str(path), None, rows)
    channels = []
    picked = np.unique(np.linspace(0, len(windows) - 1, min(len(windows), 1000)).astype(int))
    part = np.asarray(signals[picked], dtype=np.float64)
    there = np.ones(signals.shape[:2], dtype=bool) if windows.present is None else np.asarray(windows.present)
    for row, name in enumerate(windows.channels):
        recorded = part[there[picked, row], row]  # the zeros of an absent channel are no samples
        figures = np.percentile(recorded, [50, 5, 95]) if recorded.size else []
        shown = [f"{figure:.4g}" for figure in figures] or ["", "", ""]
        channels.append((name, *shown, str(int((~there[:, row]).sum()))))
    columns = ("channel", "median", "5 %", "95 %", "absent")
    print_table(f"Channels (over {len(picked):,} windows)", columns, channels)


def _checkpoint(path: Path) -> None:
    from butppg_lightning.evaluation.calibration import describe
    from butppg_lightning.models.about import identity, in_words
    from butppg_lightning.models.architecture import normal_spec
    from butppg_lightning.models.calibration import stored_calibration
    from butppg_lightning.models.checkpoints import read_stored, stored_options
    from butppg_lightning.models.pretrained import read_encoder
    from butppg_lightning.models.training_range import stored_range

    content = read_stored(path)
    options = stored_options(content)
    if options and content.get("state_dict"):
        state: dict[str, Any] = content["state_dict"]
        spec: dict[str, Any] | None = normal_spec(options.get("encoder"))
    else:
        source = read_encoder(path)
        spec, state = source.spec, source.containers[-1]
    rows = [(key, content.get(key)) for key in ("epoch", "stage", "global_step", "pytorch-lightning_version")]
    count = sum(value.numel() for value in state.values())
    rows.append(("parameters and buffers", f"{count:,} in {len(state)} tensors"))
    if spec is not None:
        rows += [("encoder", spec["class_path"]), *((f"  {key}", value) for key, value in spec["init_args"].items())]
    rows += [(key, value) for key, value in options.items() if key != "encoder"]
    if "head" in options:
        found = stored_calibration(content, path)
        rows.append(("calibration", f"{describe(found)}; on {found.source}" if found.fitted else "none"))
    if (known := stored_range(content, path)) is not None:
        rows.append(("training range", f"{len(known.names)} indices of windows with {', '.join(known.channels)}"))
    if said := identity(content):
        print(in_words(said))
    _print(str(path), rows)
    if isinstance(content.get("metrics"), dict):
        _print("Validation metrics at this epoch", content["metrics"].items())


def _print(title: str, rows: Iterable[tuple[str, Any]]) -> None:
    """Print a table of names and values; one that is empty is left out, since it says nothing."""
    from rich.markup import escape

    print_table(title, None, ((key, escape(_short(value))) for key, value in rows if value not in (None, "", [], {})))


def _short(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_short(item) for item in value)}]"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(item)}" for key, item in value.items())
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _is_npz(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".npy") for name in archive.namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
        return False  # then it is no npz; the reader of checkpoints says what it makes of it
