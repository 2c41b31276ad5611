"""`butppg results`: how well windows of unseen people are ranked, against strong simple methods."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from butppg_lightning.cli.configs import shipped_configs
from butppg_lightning.cli.parser import OneLineErrors, command_parser, parse
from butppg_lightning.cli.results.definition import Definition, Method, read_ablation, read_definition
from butppg_lightning.cli.results.study import Study
from butppg_lightning.cli.results.workers import Workers, start_workers
from butppg_lightning.console import print_table, say
from butppg_lightning.errors import UserError
from butppg_lightning.files import atomic_write, require_writable, write_json
from butppg_lightning.sources.parallel import usable_cores

if TYPE_CHECKING:
    from collections.abc import Mapping

    from butppg_lightning.cli.results.figures import Held
    from butppg_lightning.cli.results.jobs import FitJob

RESULTS, ABLATION = "results", "ablation"


def run(arguments: list[str]) -> None:
    """Train and score what is not there yet, then write the tables, the pictures and the final model.

    Args:
        arguments: The words after ``butppg results``; a first ``ablation`` means ``--ablation`` with the shipped rows.

    Raises:
        UserError: If an option or a file is wrong, or a job fails.
        StoppedError: On Ctrl-C; what is done is kept.
    """
    if arguments[:1] == ["ablation"]:
        arguments = ["--ablation", str(_shipped("ablation.yaml")), *arguments[1:]]
    options = parse(_parser(), arguments)
    begin = time.monotonic()
    definition, methods = _asked(options)
    require_writable(options.output)
    count = options.workers or usable_cores()
    study = _study(options, count)
    with start_workers(count) as workers:
        jobs = _train(
            study, workers, methods, final=None if options.ablation else definition.methods[definition.reference]
        )
    _tell(study, definition, methods, jobs, begin, ablation=options.ablation is not None)
    shutil.rmtree(study.output / "work", ignore_errors=True)


def _parser() -> OneLineErrors:
    parser = command_parser(
        "results",
        "Hold people out, train and score every method with several seeds, and tell who ranks unseen people's windows "
        "better. Stopped at any moment, the same command goes on where it was.",
        "butppg results --windows spc2015_dev/windows.npz --pretraining bidmc --output artifacts/results",
    )
    add = parser.add_argument
    add("--windows", type=Path, help="labelled windows with subjects (npz)")
    add("--but_ppg", type=Path, help="in place of --windows: folder of a BUT PPG release, five folds by subject")
    add("--unlabelled", type=Path, help="windows of the same subjects for self-supervision; default: the labelled ones")
    add("--pretraining", type=Path, help="folder with train_windows.npz, as for `butppg pretrain --data.root`")
    add("--release", type=Path, help="folder with BUT PPG v1 records, to score them by models that never saw them")
    add("--output", type=Path, required=True, help="folder for everything; what is done there is not done again")
    add("--seeds", type=int, default=5, help="seeds of every method")
    add("--folds", type=str, help="subject (leave one out; the default) or a number of folds (5 with --but_ppg)")
    add("--methods", type=str, help="only these, comma-separated; the recommended one is always there")
    add("--definitions", type=Path, default=_shipped("methods.yaml"), help="YAML file of the methods")
    add(
        "--ablation",
        type=Path,
        help="YAML file of variants to compare with the recommended recipe, in place of methods",
    )
    add("--workers", type=int, default=0, help="processes; 0: one for each core")
    return parser


def _shipped(name: str) -> Path:
    return shipped_configs() / "results" / name


def _asked(options: Any) -> tuple[Definition, dict[str, Method]]:
    from butppg_lightning.evaluation.drawing import require_matplotlib

    if (options.windows is None) == (options.but_ppg is None):
        raise UserError("give either --windows FILE (labelled, with subjects) or --but_ppg DIR (a release)")
    if options.but_ppg is not None and (options.unlabelled or options.release):
        raise UserError("--but_ppg holds people of the release out; drop --unlabelled and --release")
    for key, least in (("seeds", 1), ("workers", 0)):
        if getattr(options, key) < least:
            raise UserError(f"--{key} is {getattr(options, key)}; expected at least {least}")
    for key in ("windows", "but_ppg", "unlabelled", "pretraining", "release"):
        path = getattr(options, key)
        if path is not None and not path.exists():
            raise UserError(f"--{key} {path} does not exist")
    require_matplotlib("the comparison")
    definition = read_definition(options.definitions)
    if options.ablation is not None:
        definition = read_ablation(options.ablation, definition)
    return definition, definition.chosen(options.methods.split(",") if options.methods else None)


def _study(options: Any, workers: int) -> Study:
    from butppg_lightning.cli.results.releases import first_records, prepare_release

    output: Path = options.output
    windows, folds = options.windows, options.folds or "subject"
    if options.but_ppg is not None:
        windows, folds = prepare_release(options.but_ppg, output / "but_ppg", workers), options.folds or "5"
    others = None
    if options.release is not None and options.ablation is None:
        others = first_records(options.release, output / "external", workers)
    return Study(windows, options.unlabelled, options.pretraining, others, output, folds, options.seeds)


def _train(study: Study, workers: Workers, methods: Mapping[str, Method], final: Method | None) -> list[FitJob]:
    """Do what is left to do; return every job of the comparison, done earlier or now."""
    chosen = list(methods.values())
    jobs = study.jobs(chosen) + (study.external_jobs(chosen) if final else [])
    every = jobs + ([study.final_job(final)] if final else [])
    todo = study.todo(every)
    stale = sum(job.result is not None and job.result.is_file() for job in todo)
    if stale:
        say(f"note: {stale} predictions are of another definition, data or protocol, and are made again")
    stages = study.encoders(todo)
    study.write_folds(todo, [job for stage in stages for job in stage])
    for title, stage in zip(("pretraining", "adaptation to the training people"), stages, strict=True):
        threads = max(1, workers.count // max(len(stage), 1))
        workers.run(title, [replace(job, threads=threads) for job in stage])
    workers.run("fits and rivals", todo)
    return jobs


def _tell(
    study: Study,
    definition: Definition,
    methods: Mapping[str, Method],
    jobs: list[FitJob],
    begin: float,
    *,
    ablation: bool,
) -> None:
    from butppg_lightning.cli.results import outcome, tables
    from butppg_lightning.cli.results.figures import calibrate
    from butppg_lightning.cli.results.pictures import draw_all

    held = outcome.gather(study, methods)
    shared = {
        "protocol": outcome.protocol(study),
        "costs": outcome.costs([job.result for job in jobs if job.result is not None]),
    }
    if ablation:
        content = {**outcome.describe_ablation(definition, held), **shared}
        page, name = tables.ablation_page(content), ABLATION
        print_table("Ablation, on unseen people", tables.ABLATION_COLUMNS, tables.ablation_rows(content))
    else:
        calibrated = {key: calibrate(each) for key, each in held.items()}
        content = {**outcome.describe(study, definition, held, calibrated), **shared}
        content["final"] = _finish_final(study, held[definition.reference])
        content["pictures"] = draw_all(study.output, content, held, calibrated)
        page, name = tables.results_page(content), RESULTS
        tables.print_primary(content)
    write_json(study.output / f"{name}.json", content)
    with atomic_write(study.output / f"{name}.md") as file:
        file.write(page.encode())
    minutes = (time.monotonic() - begin) / 60
    print(f"Results: {study.output / name}.md and .json, in {minutes:.1f} min; {len(jobs)} fits and rivals in all")


def _finish_final(study: Study, held: Held) -> dict[str, Any]:
    """Calibrate the model that was trained on everybody, by the predictions for people who were held out."""
    import numpy as np

    from butppg_lightning.cli.results.jobs import KEPT
    from butppg_lightning.evaluation.calibration import describe, fit_calibration, write_calibration

    path, seeds = study.final / KEPT, len(held.scores)
    people = len(np.unique(held.subjects))
    source = f"out-of-fold predictions for {len(held.labels)} windows of {people} subjects, {seeds} seeds"
    try:
        calibration = fit_calibration(np.tile(held.labels, seeds), held.scores.ravel(), source)
    except UserError as error:
        say(f"note: {path} is left uncalibrated: {error}")
        return {"path": str(path), "calibrated": False, "why": str(error)}
    write_calibration(path, path, calibration)
    print(f"{path}: trained on everybody, calibrated on {source}: {describe(calibration)}")
    return {
        "path": str(path),
        "calibrated": True,
        **{k: getattr(calibration, k) for k in ("temperature", "bias", "prior")},
    }
