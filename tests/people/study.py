"""One comparison: its data, its people, its seeds, and which jobs are left to do."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from butppg_lightning.console import say
from butppg_lightning.errors import UserError
from butppg_lightning.window import WindowSet
from people import fingerprints
from people.data_set import DataSet
from people.folds import Fold, everybody, make_folds
from people.jobs import EncoderJob, FitJob
from people.methods import COMBINED, Method
from people.workers import run_jobs


@dataclass(frozen=True)
class Study:
    """What is asked, of which data.

    Attributes:
        data: The data set.
        output: Where everything goes.
        seeds: Seeds of every method.
    """

    data: DataSet
    output: Path
    seeds: int

    @cached_property
    def windows(self) -> WindowSet:
        """The labelled windows."""
        return self.data.read()

    @cached_property
    def folds(self) -> list[Fold]:
        """Who is held out."""
        return make_folds(self.windows, self.data.folds)

    @cached_property
    def digests(self) -> dict[str, Any]:
        """Digests of the data."""
        return self.data.digests()

    def seeds_of(self, method: Method) -> range:
        """Return the seeds of a method."""
        return range(min(self.seeds, method.seeds or self.seeds))

    def prediction(self, method: Method, fold: Fold, seed: int) -> Path:
        """Return where the scores of held-out windows are."""
        return self.output / "predictions" / method.name / f"fold-{fold.name}_seed-{seed}.csv"

    def external_prediction(self, method: Method, seed: int) -> Path:
        """Return where the scores of the external windows are."""
        return self.output / "external" / method.name / f"seed-{seed}.csv"

    @property
    def final(self) -> Path:
        """The model that is trained on everybody."""
        return self.output / "final" / "best_model.pt"

    def jobs(self, methods: Iterable[Method]) -> list[FitJob]:
        """Return the jobs of all predictions of some methods, done or not."""
        single = [method for method in methods if method.kind not in COMBINED]
        return [
            self._job(method, fold, seed, self.data.windows, self.prediction(method, fold, seed))
            for fold in self.folds
            for method in single
            for seed in self.seeds_of(method)
        ]

    def external_jobs(self, methods: Iterable[Method]) -> list[FitJob]:
        """Return the jobs of the external predictions of the methods that ask for it."""
        fold, path = everybody(self.windows), self.data.external
        return [
            self._job(method, fold, seed, path, self.external_prediction(method, seed))
            for method in methods
            if path is not None and method.external and method.kind not in COMBINED
            for seed in self.seeds_of(method)
        ]

    def final_job(self, method: Method) -> FitJob:
        """Return the job that trains on everybody and keeps its run."""
        return self._job(method, everybody(self.windows), 0, None, self.final)

    def run(self, jobs: list[FitJob], pool: ProcessPoolExecutor, count: int) -> None:
        """Do what is left to do of some jobs in a pool of ``count`` processes: first the encoders that they need."""
        todo = [job for job in jobs if not fingerprints.is_done(job.result, job.fingerprint)]
        if stale := sum(job.scored is not None and job.result.is_file() for job in todo):
            say(f"note: {stale} predictions are of another definition, data or protocol, and are made again")
        wanted = _missing(job.encoder for job in todo)
        continued = [job for job in wanted if job.source is not None]
        first = _missing([job for job in wanted if job.source is None] + [job.source for job in continued])
        for what, encoders in (("pretraining", first), ("adaptation to the training people", continued)):
            run_jobs(pool, what, encoders, threads=max(1, count // max(len(encoders), 1)))
        run_jobs(pool, "fits and baselines", todo, threads=1)

    def _job(self, method: Method, fold: Fold, seed: int, scored: Path | None, result: Path) -> FitJob:
        encoder = self._encoder(method, fold)
        name = f"{method.name}_fold-{fold.name}_seed-{seed}{'' if scored else '_final'}"
        asked = fingerprints.fingerprint(
            kind=[method.kind, method.baseline, method.indices],
            fit=fingerprints.meaning(method.fit),
            channels=method.channels,
            soft=method.soft_labels,
            encoder=encoder.fingerprint if encoder else None,
            train=[self.digests["windows"], fold.train],
            scored=self.digests["external"] if scored and scored == self.data.external else fold.test,
            seed=seed,
        )
        return FitJob(
            title=f"{method.name}, {fold}, seed {seed}",
            method=method,
            seed=seed,
            data=self.data,
            fold=fold,
            scored=scored,
            encoder=encoder,
            result=result,
            work=self.output / "work" / name,
            fingerprint=asked,
            log=self.output / "logs" / f"{name}.log",
        )

    def _encoder(self, method: Method, fold: Fold) -> EncoderJob | None:
        if method.kind != "network" or method.encoder == "none":
            return None
        if self.data.pretraining is None or not self.digests["pretraining"]:
            raise UserError(
                f"method {method.name} starts from a pretrained encoder; name its windows' folder with --pretraining"
                f"{'' if self.data.pretraining is None else f': {self.data.pretraining} holds no train_windows.npz'}"
            )
        start = self._encoder_job("pretraining", method.pretrain, self.digests["pretraining"])
        if method.encoder == "pretrained":
            return start
        data = [self.digests.get("unlabelled", self.digests["windows"]), fold.train]
        continued = {"fold": fold, "mixed": method.with_pretraining, "source": start}
        return self._encoder_job(f"adaptation, {fold}", method.adapt, data, **continued)

    def _encoder_job(self, title: str, arguments: str, data: Any, **continued: Any) -> EncoderJob:
        source, mixed = continued.get("source"), continued.get("mixed", False)
        parts = {"arguments": fingerprints.meaning(arguments), "data": data, "mixed": mixed}
        asked = fingerprints.fingerprint(**parts, source=source and source.fingerprint)
        folder, log = self.output / "encoders" / asked, self.output / "logs" / f"encoder_{asked}.log"
        return EncoderJob(title, arguments, self.data, folder, asked, log, **continued)


def _missing(encoders: Iterable[EncoderJob | None]) -> list[EncoderJob]:
    """Return each encoder that is not there once."""
    found = {job.fingerprint: job for job in encoders if job is not None}
    return [job for job in found.values() if not fingerprints.is_done(job.result, job.fingerprint)]
