"""The study's command: how well windows of unseen people are ranked, against strong simple methods."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse.typing import NonNegativeInt, PositiveInt

from butppg_lightning.console import say
from butppg_lightning.errors import UserError
from butppg_lightning.files import atomic_write, require_writable, write_json
from butppg_lightning.models.checkpoints import restore_network
from butppg_lightning.sources.parallel import usable_cores
from people import figures, fingerprints, sections, tables
from people.command_line import run_typed
from people.data_set import DataSet, first_records, paths_of, whole_release
from people.held import Held, gather, gather_external
from people.jobs import FitJob
from people.methods import Definition, Method, read_ablation, read_definition
from people.pictures import draw_all
from people.rhythm import describe_rhythm
from people.study import Study
from people.workers import command, start_workers

_METHODS = Path(__file__).with_name("methods.yaml")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study with the arguments of the command line, and return the exit code."""
    return run_typed(study, "tests/people", "study", arguments)


def study(
    output: Path,
    windows: Path | None = None,
    but_ppg: Path | None = None,
    unlabelled: Path | None = None,
    pretraining: Path | None = None,
    patients: str = "",
    release: Path | None = None,
    rhythm: Path | None = None,
    seeds: PositiveInt = 5,
    folds: str | None = None,
    methods: str = "",
    definitions: Path = _METHODS,
    ablation: Path | None = None,
    workers: NonNegativeInt = 0,
) -> None:
    """Hold people out, train and score every method, and say who ranks unseen people's windows better.

    Stopped at any moment, the same command goes on where it was.

    Args:
        output: Folder for everything; what is done there is not done again.
        windows: Labelled windows with subjects (npz).
        but_ppg: In place of windows: folder of a BUT PPG release, five folds by subject.
        unlabelled: Windows of the same subjects for self-supervision; default: the labelled ones.
        pretraining: Folder with train_windows.npz, as for `butppg pretrain --data.root`.
        patients: Files of further patients (PPG and ECG, with subjects), comma-separated: for the methods whose
            pretraining is pooled, and by their labels_hr (-1: none) for supervised encoders.
        release: Folder with BUT PPG v1 records, to score them by models that never saw them.
        rhythm: Windows of others with rhythm (SR or AF), to see which are called poor.
        seeds: Seeds of every method.
        folds: subject (leave one out; the default) or a number of folds (5 with but_ppg).
        methods: Only these, comma-separated; the recommended one is always there.
        definitions: YAML file of the methods.
        ablation: YAML file of variants to compare with the recommended recipe, in place of methods.
        workers: Processes; 0: one for each core.

    Raises:
        UserError: If an option or a file is wrong, or a job fails.
        StoppedError: On Ctrl-C; what is done is kept.
    """
    begin, count = time.monotonic(), workers or usable_cores()
    given = {"windows": windows, "but_ppg": but_ppg, "unlabelled": unlabelled, "pretraining": pretraining}
    _refuse_mistakes({**given, "release": release, "rhythm": rhythm})
    definition = read_definition(definitions)
    if ablation is not None:
        definition = read_ablation(ablation, definition)
    chosen = definition.chosen([name for name in methods.split(",") if name])
    require_writable(output)
    if but_ppg is not None:
        windows, folds = whole_release(but_ppg, output / "but_ppg", count), folds or "5"
    assert windows is not None
    check = first_records(release, output / "external", count) if release is not None and ablation is None else None
    others, rhythm = paths_of("patients", patients), rhythm if ablation is None else None
    data = DataSet(windows, unlabelled, pretraining, check, others, rhythm, folds or "subject")
    asked = Study(data, output, seeds)
    jobs = asked.jobs(chosen.values(), curve=ablation is None)
    if ablation is None:
        jobs += [*asked.external_jobs(chosen.values()), asked.final_job(chosen[definition.reference])]
    with start_workers(count) as pool:
        asked.run(jobs, pool, count)
    _report(asked, definition, chosen, jobs, ablation=ablation is not None)
    shutil.rmtree(output / "work", ignore_errors=True)
    print(f"{len(jobs)} fits and baselines in all; {(time.monotonic() - begin) / 60:.1f} min")


def _refuse_mistakes(given: Mapping[str, Path | None]) -> None:
    """Refuse options that exclude each other, and files that are not there."""
    if (given["windows"] is None) == (given["but_ppg"] is None):
        raise UserError("give either --windows FILE (labelled, with subjects) or --but_ppg DIR (a release)")
    if given["but_ppg"] is not None and (given["unlabelled"] or given["release"]):
        raise UserError("--but_ppg holds people of the release out; drop --unlabelled and --release")
    for key, path in given.items():
        if path is not None and not path.exists():
            raise UserError(f"--{key} {path} does not exist")


def _report(
    asked: Study, definition: Definition, methods: Mapping[str, Method], jobs: list[FitJob], *, ablation: bool
) -> None:
    """Write the page, its figures and its pictures."""
    reference, held = definition.reference, gather(asked, methods)
    content: dict[str, Any] = {"reference": reference, "protocol": figures.protocol(asked)}
    content["costs"] = _costs([job.targets[0].result for job in jobs if not job.keeps_run])
    if ablation:
        content["rows"] = figures.describe(
            {key: each for key, each in held.items() if each.method.table == "ablation" or key == reference}, reference
        )
        page, name = tables.ablation_page(content), "ablation"
        tables.print_ablation(content)
    else:
        calibrated = {key: figures.calibrate(each) for key, each in held.items()}
        content["methods"] = figures.describe(held, reference, calibrated)
        others = gather_external(asked, methods) if asked.data.external else {}
        content["external"] = figures.describe_external(others) if others else None
        content["conditions"] = sections.describe_conditions(asked, held)
        content["curve"] = sections.describe_curve(asked, held, content["methods"])
        content["questions"] = sections.describe_questions(definition.questions, content["methods"], content["curve"])
        content["rhythm"] = describe_rhythm(asked, held)
        content["final"] = _calibrate_final(asked, held[reference])
        content["pictures"] = draw_all(asked.output, content, held, calibrated)
        page, name = tables.results_page(content), "results"
        tables.print_results(content)
    write_json(asked.output / f"{name}.json", content)
    with atomic_write(asked.output / f"{name}.md") as file:
        file.write(page.encode())
    print(f"Results: {asked.output / name}.md and .json")


def _costs(results: list[Path]) -> dict[str, Any]:
    """Return how many jobs' results there are, how long they took, and whether other code made some of them."""
    notes = [fingerprints.note_of(path) for path in results]
    seconds = [float(note.get("seconds", 0)) for note in notes]
    return {
        "jobs": len(notes),
        "seconds_in_all": round(sum(seconds), 1),
        "seconds_of_the_longest": round(max(seconds, default=0.0), 1),
        "by_other_code": sum(note.get("code") != fingerprints.code_digest() for note in notes),
    }


def _calibrate_final(asked: Study, held: Held) -> dict[str, Any]:
    """Calibrate the model that was trained on everybody, by the predictions for people who were held out."""
    predictions = asked.output / "out_of_fold.csv"
    with atomic_write(predictions) as file:
        figures.out_of_fold(held).to_csv(file, index=False)
    path = asked.final
    try:
        command("calibrate", "--checkpoint", str(path), "--predictions", str(predictions), "--overwrite", "true")
    except UserError as error:
        say(f"note: {path} is left uncalibrated: {error}")
        return {"path": str(path), "calibrated": False, "why": str(error)}
    calibration = restore_network(path)[0].calibration
    fitted = {key: getattr(calibration, key) for key in ("temperature", "bias", "prior")}
    return {"path": str(path), "calibrated": True, **fitted}
