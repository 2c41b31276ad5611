"""`butppg score`: the quality of every window of a long recording, or of many recordings."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from butppg_lightning.cli.checks import (
    DEFAULT_CHECKPOINT,
    Decision,
    refuse_earlier_results,
    require_at_least,
    require_checkpoint,
    restored,
)
from butppg_lightning.console import print_table, progress_bar, say
from butppg_lightning.errors import UserError
from butppg_lightning.files import check_writable, claim, write_json
from butppg_lightning.window import SAMPLING_RATE

if TYPE_CHECKING:
    from butppg_lightning.evaluation.scores import Scores
    from butppg_lightning.evaluation.timeline import Example
    from butppg_lightning.models.network import QualityNetwork
    from butppg_lightning.models.prediction import Predictions
    from butppg_lightning.sources.recordings import Recording
    from butppg_lightning.sources.recordings.windowing import Windows

TABLES = {"csv": "scores.csv", "parquet": "scores.parquet"}
SUMMARY, TIMELINE = "summary.json", "timeline.png"
_RESULTS = (*TABLES.values(), SUMMARY, TIMELINE)
_STATES = ("", "missing", "flat", "railed")  # a channel's faults in the table; it is absent where samples are missing
_OUTLINE_COLUMNS = 1400  # about the pixels of the timeline's width


def score(
    *,
    checkpoint: Path = DEFAULT_CHECKPOINT,
    output_dir: Path | None = None,
    input: list[Path] | None = None,
    input_list: list[str] | None = None,
    hop: float = 10.0,
    channels: list[str] | None = None,
    fs: str | None = None,
    acc_unit: Literal["g", "mg", "m/s2"] | None = None,
    time_unit: Literal["s", "ms", "us", "ns", "min", "h", "d", "samples"] | None = None,
    decimal: Literal[".", ","] | None = None,
    batch_size: int = 64,
    precision: Literal["32-true", "bf16-mixed", "auto"] = "32-true",
    format: Literal["csv", "parquet"] = "csv",
    overwrite: bool = False,
    **decision: Any,
) -> None:
    """Score every 10-s window of a long recording, of any channels and rates, gaps allowed; or of many recordings.

    Args:
        checkpoint: best_model.pt of `butppg fit`, an exported model, or shipped: the package's gate.
        output_dir: Folder for results, with one each for many recordings; default: the recording's name and _quality.
        input: The recording: a file, a device's folder, or several files that are one recording (PPG.csv ACC.csv).
        input_list: Many recordings, one each: files, folders of recordings, or patterns such as 'night*/*.edf'.
        hop: Seconds from one window's start to the next one's (below 10: overlap).
        channels: Names in the file where no alias fits: PPG=sensor3,ECG=lead,TIME=stamp; ECG=none leaves ECG out.
        fs: Sampling rate where the file states none: 64, or PPG=64,ACC=50 (Hz).
        acc_unit: Unit of acceleration; default: what the file states, or g.
        time_unit: Unit of a time column of plain numbers; default: what its name states, or what its steps can be.
        decimal: Decimal sign of a table of text; default: what its cells show.
        batch_size: Windows per forward pass; on CPUs small ones stay in the cache.
        precision: 32-true: the same everywhere; bf16-mixed (auto: where there is bf16) is faster, and up to 0.03 off.
        format: Of the table; parquet needs pyarrow.
        overwrite: Replace an earlier score in the output folder.
        **decision: Options of Decision.

    Raises:
        UserError: If an option is wrong, the checkpoint or the recording cannot be used, or results exist; of many
            recordings, at the end, if some could not be scored.

    Example:
        butppg score --input night.edf
    """
    options = SimpleNamespace(**locals())
    options.decided = Decision(**decision)
    require_at_least(1, batch_size=batch_size)
    options.model, options.restored = require_checkpoint(checkpoint), cache(restored)  # once for all recordings
    if (input is None) == (input_list is None):
        raise UserError("give one of --input (one recording) and --input_list (many)")
    output_dir = output_dir or _own_folder(input)
    if input is not None:
        refuse_earlier_results(output_dir, _RESULTS, overwrite)
        _show(options, *_score_one(options, input, output_dir))
        return
    from butppg_lightning.cli.score_list import find_recordings, score_list

    found = find_recordings(input_list or [])
    score_list(found, output_dir, overwrite, lambda path, folder: _score_one(options, [path], folder)[0])


def _own_folder(recording: list[Path] | None) -> Path:
    if recording is None:
        raise UserError("--input_list needs --output_dir, the folder for the recordings' folders")
    source = recording[0].resolve()  # of a folder that is called `.`, too
    # only what says the format: 2024.01.05.npz and 2024.01.06.npz are two nights
    name = source.name if source.is_dir() else Path(source.name.removesuffix(".gz")).stem
    return Path(f"{name}_quality")


def _score_one(options: Any, paths: list[Path], output: Path) -> tuple[dict[str, Any], list[Path]]:
    """Score a recording into a folder; returns its summary and what was written."""
    recording = _read(options, paths)  # before torch is loaded: of all steps this one may take most memory
    from butppg_lightning.models.prediction import predict
    from butppg_lightning.sources.recordings.windowing import Windows

    network, trained, known = options.restored(options.model)
    _check_channels(recording, network, trained)
    decided: Decision = options.decided
    least, decided_by, remark = decided.made_with(network.calibration)
    recording.notes += [remark] if remark else []
    windows = Windows(recording, network.channels, options.hop)
    check_writable(output)  # it is made when there is something to write: a stopped run leaves nothing behind
    with progress_bar("scoring windows", len(windows)) as progress:
        more: Any = {"prior": decided.prior, "precision": options.precision, "compare": True, "progress": progress}
        found = predict(network, windows, batch_size=options.batch_size, **more)
    scores, examples = _scores(found, windows, recording, least)
    if scores.outside is not None and (caution := scores.outside.caution()):
        recording.notes.append(caution)
    calibrated, prior = network.calibration.fitted, decided.assumed(network.calibration)
    how = {"model": known, "threshold_from": decided_by, "calibrated": calibrated, "prior": prior}
    with claim(output):  # only now: a run that is stopped before leaves no folder behind
        refuse_earlier_results(output, _RESULTS, options.overwrite)
        return _write(options, output, scores, examples, recording, {**how, "precision": found.precision})


def _read(options: Any, paths: list[Path]) -> Recording:
    from rich.console import Console
    from rich.markup import escape

    from butppg_lightning.evaluation.scores import require_pyarrow
    from butppg_lightning.sources.recordings import Selection, read_recording
    from butppg_lightning.sources.recordings.names import parse_channels, parse_rates

    if options.format == "parquet":
        require_pyarrow()
    channels, rates = parse_channels(options.channels or []), parse_rates(options.fs)
    selection = Selection(channels, rates, options.acc_unit, options.time_unit, options.decimal)
    console = Console(stderr=True, force_jupyter=False)
    with console.status(f"reading {escape(', '.join(path.name for path in paths))}"):  # seen on a terminal only
        return read_recording(paths, selection)


def _check_channels(recording: Recording, network: QualityNetwork, trained: dict[str, Any]) -> None:
    if "PPG" not in network.channels:
        raise UserError(
            f"the checkpoint's model takes {', '.join(network.channels)} and no PPG; it cannot judge a PPG's quality"
        )
    if "PPG" not in recording.channels:
        from butppg_lightning.sources.recordings.names import listed

        raise UserError(
            f"{recording.path} has no PPG, whose quality is asked for; it has {listed(recording.names)}: "
            f"if one of them is the PPG, say --channels PPG=NAME{''.join(f' ({note})' for note in recording.notes)}"
        )
    lacking = [name for name in network.used_channels if name not in recording.channels]
    dropout = trained.get("channel_dropout") or {}
    unknown = [name for name in lacking if not dropout.get(name, dropout.get(name[:3], 0))]
    if unknown:
        recording.notes.append(
            f"scored without {', '.join(unknown)}, which the model always had in training (no channel dropout): "
            "its probabilities may be off"
        )
    known, there = network.training_range, [name for name in network.used_channels if name in recording.channels]
    if known is not None and (new := [name for name in there if name not in known.channels]):
        recording.notes.append(
            f"scored with {', '.join(new)}, which no training window had: leave them out (--channels {new[0]}=none)"
        )
    rate, band = recording.channels["PPG"].rate, network.preprocess.bands["ppg_band"]
    highest = SAMPLING_RATE / 2 if band is None else band[1]
    if rate < 2 * highest:
        recording.notes.append(
            f"PPG was sampled at {rate:g} Hz, and the model looks for pulses up to {highest:g} Hz, which take "
            f"{2 * highest:g} Hz: its windows look smoother than those of training"
        )


def _scores(
    found: Predictions, windows: Windows, recording: Recording, threshold: float
) -> tuple[Scores, list[Example]]:
    """Return the scores, and the best and the worst window with their usable channels, made again rather than kept."""
    from butppg_lightning.evaluation.scores import Scores
    from butppg_lightning.evaluation.timeline import Example
    from butppg_lightning.sources.recordings.windowing import WINDOW_SECONDS

    recorded = [column for column, name in enumerate(windows.channels) if name in recording.channels]
    probabilities = np.where(found.judged, found.probabilities, np.nan)
    scores = Scores(
        starts=windows.starts,
        seconds=WINDOW_SECONDS,
        probabilities=probabilities,
        threshold=threshold,
        channels=tuple(windows.channels[column] for column in recorded),
        states=found.faults[:, recorded],
        reasons=_STATES,
        start_time=recording.start_time,
        outside=found.outside(threshold),
    )
    chosen: dict[int, str] = {}
    if not np.isnan(probabilities).all():
        chosen[int(np.nanargmax(probabilities))] = "best window"
        chosen.setdefault(int(np.nanargmin(probabilities)), "worst window")
    examples = []
    for row, title in chosen.items():
        named = zip(windows.channels, windows[row]["signals"], found.faults[row], strict=True)
        examples.append(Example(title, row, {name: signal for name, signal, fault in named if not fault}))
    return scores, examples


def _write(
    options: Any, output: Path, scores: Scores, examples: list[Example], recording: Recording, decision: dict[str, Any]
) -> tuple[dict[str, Any], list[Path]]:
    from butppg_lightning.evaluation.scores import write_scores

    for name in _RESULTS:
        (output / name).unlink(missing_ok=True)  # an earlier recording's must not stand beside this one's
    write_scores(output / TABLES[options.format], scores)
    figures = scores.summary()
    presence = figures.pop("presence")
    start_time = recording.start_time
    summary = {
        "recording": recording.path,
        "device": recording.device or None,
        "checkpoint": str(options.checkpoint),
        "start_time": None if start_time is None else start_time.isoformat(timespec="milliseconds"),
        "duration_seconds": recording.duration,
        "window_seconds": scores.seconds,
        "hop_seconds": options.hop,
        "threshold": scores.threshold,
        **decision,
        **figures,
        "channels": {
            name: {"name_in_file": channel.source, "rate": channel.rate, **presence[name]}
            for name, channel in recording.channels.items()
            if name in presence
        },
        "notes": recording.notes + recording.guesses,
        "guesses": recording.guesses,
    }
    write_json(output / SUMMARY, summary)
    written = [output / TABLES[options.format], output / SUMMARY]
    if _draw(output / TIMELINE, Path(recording.path).name, scores, examples, recording):
        written.append(output / TIMELINE)
    for note in summary["notes"]:
        say(f"note: {note}")
    return summary, written


def _draw(path: Path, title: str, scores: Scores, examples: list[Example], recording: Recording) -> bool:
    from butppg_lightning.evaluation.timeline import draw_timeline
    from butppg_lightning.extras import require
    from butppg_lightning.sources.recordings.windowing import outline

    try:
        require("matplotlib.figure", "it", "recordings")
    except UserError as missing:
        say(f"no timeline was drawn: {missing}")
        return False
    swings = outline(recording.channels["PPG"], recording.duration, _OUTLINE_COLUMNS)
    draw_timeline(path, title, scores, swings, examples)
    return True


def _show(options: Any, summary: dict[str, Any], written: list[Path]) -> None:
    from rich.markup import escape

    begin, stretch = summary["longest_usable_start"], summary["longest_usable_seconds"]
    share = summary["share_outside"]
    print_table(
        f"{summary['recording']}: {_duration(summary['duration_seconds'])}, a window every {options.hop:g} s",
        None,
        [
            ("windows", f"{summary['windows']:,}"),
            ("usable", f"{summary['good']:,} ({summary['share_usable']:.1%}), {summary['hours_usable']:.2f} h"),
            ("poor", f"{summary['poor']:,}"),
            ("without PPG", f"{summary['no_ppg']:,}"),
            ("longest usable stretch", "-" if begin is None else f"{_duration(stretch)} from {_duration(begin)} on"),
            *([] if share is None else [("unlike training", f"{share:.1%}")]),
            ("threshold", f"{summary['threshold']:.4g} ({summary['threshold_from']})"),
        ],
    )
    states = ("present", "missing", "flat", "railed")
    rows = [
        (name, escape(found["name_in_file"]), f"{found['rate']:.4g}", *(f"{found[state]:.1%}" for state in states))
        for name, found in summary["channels"].items()
    ]
    print_table("Channels (share of the windows)", ("channel", "in the file", "Hz", *states), rows)
    print(f"Results: {', '.join(map(str, written))}")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min {rest:02d} s" if hours else f"{minutes} min {rest:02d} s"
