"""`butppg prepare but-ppg`: the PhysioNet release → subject-wise splits."""

from __future__ import annotations

import importlib.util
import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from butppg_lightning.cli.checks import require_at_least
from butppg_lightning.cli.prepare.splits import MANIFEST_FILE, plain_options, print_splits, write_manifest
from butppg_lightning.console import print_table, progress_bar, suggestion
from butppg_lightning.errors import UserError
from butppg_lightning.files import refuse_existing, require_writable
from butppg_lightning.sources.but_ppg.assemble import assemble, describe_windows
from butppg_lightning.sources.but_ppg.reader import DAMAGED, PARTS_FOLDER, Record, read_recordings
from butppg_lightning.sources.but_ppg.release import Annotation, Release, find_release, read_annotations
from butppg_lightning.sources.parallel import usable_cores
from butppg_lightning.sources.splits import SPLITS, SplitPlan, write_splits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from butppg_lightning.window import WindowSet

_PLAUSIBLE_G = (0.5, 2.0)  # of a body that is not falling


def but_ppg(
    *,
    source: Path,
    output: Path,
    ppg_channel: Literal["red", "green", "blue", "best"] = "red",
    polarity: Literal["auto", "keep", "invert"] = "auto",
    missing_acc: Literal["present", "drop"] = "present",
    damaged: Literal["error", "leave_out"] = "error",
    workers: int = 0,
    **plan: Any,
) -> None:
    """Turn the BUT PPG database, as PhysioNet releases it, into windows of 10 s at 125 Hz, split by subject.

    Args:
        source: Folder the release was unpacked into.
        output: Folder for the splits and manifest.json.
        ppg_channel: Colour of the camera that becomes PPG (records 100001 to 111004 have red only); best: for each
            camera the colour with most of its power at the heart rate and its double, over the good records.
        polarity: auto: for each camera, negate if its good records show the steep slope falling; keep, invert: all.
        missing_acc: Records without acceleration: kept with the channels marked absent in `present`, or dropped.
        damaged: Records whose files are truncated or differ from SHA256SUMS.txt: stop, or leave them out.
        workers: Processes that read; 0: one for each core.
        **plan: Options of SplitPlan.

    Raises:
        UserError: If an option is wrong, splits exist, the release is incomplete or damaged, or wfdb is missing.

    Example:
        butppg prepare but-ppg --source downloads/butppg-2.0.0 --output data/but_ppg
    """
    asked = plain_options({**locals()}, plan)
    parts = output / PARTS_FOLDER  # there only while a run is unfinished, and that run was allowed to write
    plan["overwrite"] = plan["overwrite"] or parts.is_dir()
    dealt = SplitPlan(output, **plan)
    refuse_existing([output / MANIFEST_FILE], dealt.overwrite)
    require_at_least(0, workers=workers)
    if importlib.util.find_spec("wfdb") is None:
        raise UserError("reading BUT PPG needs wfdb; pip install 'butppg-lightning[recordings]'")
    release = find_release(source)
    annotations = read_annotations(release.quality_file, release.info_file)
    excluded, readable = _readable(release, annotations)
    require_writable(parts)
    with progress_bar("reading records", len(readable)) as progress:
        recordings = read_recordings(release, readable, parts, workers or usable_cores(), progress)
    if damaged == "error":
        _refuse_damaged(recordings)
    windows, devices, left_out = assemble(recordings, annotations, ppg_channel, polarity, missing_acc)
    left_out |= excluded
    manifest = {
        "source": release.describe(source),
        "options": asked,
        "counts": {"annotated": len(annotations), **describe_windows(windows), "left_out": len(left_out)},
        "devices": devices,
        "splits": _write(windows, dealt),
        "left_out": dict(sorted(left_out.items())),
        "notes": _notes(recordings),
    }
    write_manifest(output, "but-ppg", manifest)
    shutil.rmtree(parts)
    _report(manifest, dealt)


def _notes(recordings: Mapping[str, Any]) -> dict[str, list[str]]:
    notes: dict[str, list[str]] = {}
    for name, record in sorted(recordings.items()):
        for note in record.notes:
            notes.setdefault(note, []).append(name)
    return notes


def _write(windows: WindowSet, dealt: SplitPlan) -> dict[str, dict[str, Any]]:
    """Write the splits and return, for the manifest, what is in each."""
    splits = {}
    for folder, assigned in dealt.assign(windows).items():
        written = write_splits(windows, assigned, folder)
        print_splits(folder, written)
        splits[folder.name if dealt.folds else "."] = {
            split: {**vars(part), "good_share": round(part.good_share or 0.0, 4)} for split, part in written.items()
        }
    # the splits of an earlier run with another number of folds would be taken for this run's
    for folder in {dealt.output, *dealt.output.glob("fold_*")} - set(dealt.folders):
        for name in (*(f"{split}.npz" for split in SPLITS), "splits.json"):
            (folder / name).unlink(missing_ok=True)
    return splits


def _readable(release: Release, annotations: dict[str, Annotation]) -> tuple[dict[str, str], list[str]]:
    """Part the records in those left out, with the reason, and those to read."""
    left_out = {record: "not in quality-hr-ann.csv" for record in release.records if record not in annotations}
    readable = []
    for record, annotation in annotations.items():
        if record not in release.records:
            left_out[record] = "no files in the source folder"
        elif annotation.label is None:
            left_out[record] = "quality is neither 0 nor 1"
        else:
            readable.append(record)
    if not readable:
        first, reason = min(left_out.items(), default=("none", "it lists no records"))
        raise UserError(f"no record of {release.quality_file} can be read, the first is {first}: {reason}")
    return left_out, readable


def _refuse_damaged(recordings: dict[str, Record]) -> None:
    damaged = [name for name, record in recordings.items() if record.left_out.startswith(DAMAGED)]
    if damaged:
        first = min(damaged)
        raise UserError(
            f"{len(damaged)} of {len(recordings)} records are damaged, the first is {first}: "
            f"{recordings[first].left_out.removeprefix(DAMAGED)}; "
            "download them again, or leave them out with --damaged leave_out"
        )


def _report(manifest: dict[str, Any], dealt: SplitPlan) -> None:
    output, first = dealt.output, dealt.folders[0]
    rows = []
    for name, found in manifest["devices"].items():
        polarity = f"{'inverted' if found['polarity']['invert'] else 'kept'}: {found['polarity']['reason']}"
        rows.append((name, str(found["records"]), str(found["good"]), found["ppg_channel"], polarity))
    print_table("Cameras", ("camera", "records", "good", "PPG", "polarity"), rows)
    counts = manifest["counts"]
    print(
        f"{counts['windows']} windows of {counts['subjects']} subjects, {100 * counts['good_share']:.1f} % good; "
        f"{counts['without_acceleration']} without acceleration, {counts['without_ecg']} without ECG (marked absent)"
    )
    for reason, count in Counter(manifest["left_out"].values()).most_common(5):
        print(f"left out: {count} of {counts['annotated']} records: {reason}")
    magnitude = counts["acceleration_magnitude_g"]
    if magnitude is not None and not _PLAUSIBLE_G[0] <= magnitude <= _PLAUSIBLE_G[1]:
        print(f"acceleration has a median magnitude of {magnitude:g} g instead of about 1: wrong unit in the headers?")
    if manifest["source"]["checked_against"] is None:
        print("the release came without SHA256SUMS.txt, so its files are not checked")
    print(f"{output / MANIFEST_FILE} lists every record left out and why")
    run = Path("runs") / (first.name if first != output else "but_ppg")
    print(f"\nnext: {suggestion('fit --config finetune.yaml --data.root', first, '--output_dir', run)}")
