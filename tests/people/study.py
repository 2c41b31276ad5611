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
from people.conditions import ALONE, conditions_of
from people.data_set import DataSet
from people.folds import Fold, everybody, folds_inside, make_folds, with_fewer
from people.jobs import EncoderJob, FitJob, Target, write_indices
from people.methods import COMBINED, Method
from people.workers import run_jobs

PEOPLE, DRAWS = (2, 5, 10), 3
"""How few people a learning curve is trained on before all of a fold's, and how many times they are drawn."""


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

    def under(self, condition: str, method: Method, fold: Fold, seed: int) -> Path:
        """Return where the scores of held-out windows under a condition are."""
        folder = self.output / "conditions" / condition.replace("'", "").replace(" ", "-")
        return folder / method.name / f"fold-{fold.name}_seed-{seed}.csv"

    def rhythm_prediction(self, method: Method) -> Path:
        """Return where the scores of the windows with known rhythm are, by a model trained on everybody."""
        return self.output / "rhythm" / method.name / "seed-0.csv"

    def external_prediction(self, method: Method, seed: int) -> Path:
        """Return where the scores of the external windows are."""
        return self.output / "external" / method.name / f"seed-{seed}.csv"

    @property
    def final(self) -> Path:
        """The model that is trained on everybody."""
        return self.output / "final" / "best_model.pt"

    @cached_property
    def inside(self) -> dict[str, list[Fold]]:
        """By fold: how the people it trains on are parted to choose among methods."""
        return {fold.name: folds_inside(self.windows, fold) for fold in self.folds}

    def fewer(self, people: int, draw: int) -> list[Fold]:
        """Return the folds with so few people to train on; none if one of them has no more than these anyway."""
        if people >= min(len(fold.train) for fold in self.folds):
            return []
        return [with_fewer(fold, people, draw) for fold in self.folds]

    def jobs(self, methods: Iterable[Method], *, curve: bool = True) -> list[FitJob]:
        """Return the jobs of all predictions of some methods, done or not; those on few people come last."""
        methods = list(methods)
        single = [method for method in methods if method.kind not in COMBINED]
        found = [self._held_out(method, fold, seed) for method, seed in self._seeded(single) for fold in self.folds]
        among = {name for method in methods for name in method.choose}
        inside = [fold for folds in self.inside.values() for fold in folds] if among else []
        found += [self._held_out(method, fold, 0) for method in single if method.name in among for fold in inside]
        drawn = [(people, draw) for people in PEOPLE for draw in range(DRAWS)] if curve else []
        return found + [
            self._held_out(method, fold, draw)
            for method in single
            if method.curve
            for people, draw in drawn
            for fold in self.fewer(people, draw)
        ]

    def external_jobs(self, methods: Iterable[Method]) -> list[FitJob]:
        """Return the jobs of the external predictions of the methods that ask for it; of rhythms, the first seed's."""
        fold, found = everybody(self.windows), []
        for method, seed in self._seeded(method for method in methods if method.kind not in COMBINED):
            targets, digests = [], self.digests
            if (path := self.data.external) is not None and method.external:
                result = self.external_prediction(method, seed)
                targets.append(self._target(method, fold, seed, result, digests["external"], path))
            if (path := self.data.rhythm) is not None and method.external and seed == 0:
                result, asked = self.rhythm_prediction(method), [digests["rhythm"], ALONE]
                targets.append(self._target(method, fold, seed, result, asked, path, ALONE))
            found += [self._job(method, fold, seed, targets)] if targets else []
        return found

    def final_job(self, method: Method) -> FitJob:
        """Return the job that trains on everybody and keeps its run."""
        fold = everybody(self.windows)
        return self._job(method, fold, 0, [self._target(method, fold, 0, self.final, fold.test)])

    def run(self, jobs: list[FitJob], pool: ProcessPoolExecutor, count: int) -> None:
        """Do what is left to do of some jobs in a pool of ``count`` processes: first the encoders that they need."""
        todo = [job for job in jobs if not job.done]
        if stale := sum(not job.keeps_run and job.targets[0].result.is_file() for job in todo):
            say(f"note: {stale} predictions are of another definition, data or protocol, and are made again")
        wanted = _missing(job.encoder for job in todo)
        continued = [job for job in wanted if job.source is not None]
        first = _missing([job for job in wanted if job.source is None] + [job.source for job in continued])
        for what, encoders in (("pretraining", first), ("adaptation and supervision", continued)):
            run_jobs(pool, what, encoders, threads=max(1, count // max(len(encoders), 1)))
        if any(job.indices for job in todo):
            write_indices(self.windows, self._indices, self.digests["windows"])
        run_jobs(pool, "fits and baselines", todo, threads=1)

    @property
    def _indices(self) -> Path:
        return self.output / "indices.npy"

    def _seeded(self, methods: Iterable[Method]) -> list[tuple[Method, int]]:
        return [(method, seed) for method in methods for seed in self.seeds_of(method)]

    def _held_out(self, method: Method, fold: Fold, seed: int) -> FitJob:
        """Return the job that scores a fold's held-out people, under conditions too if the method asks for it."""
        windows, single = self.data.windows, fold in self.folds
        targets = [self._target(method, fold, seed, self.prediction(method, fold, seed), fold.test, windows)]
        for condition in conditions_of(self.windows) if method.conditions and single else ():
            path, asked = self.under(condition, method, fold, seed), [*fold.test, condition]
            targets.append(self._target(method, fold, seed, path, asked, windows, condition))
        return self._job(method, fold, seed, targets)

    def _target(
        self,
        method: Method,
        fold: Fold,
        seed: int,
        result: Path,
        scored: Any,
        windows: Path | None = None,
        condition: str = "",
    ) -> Target:
        encoder = self._encoder(method, fold)
        asked = fingerprints.fingerprint(
            kind=[method.kind, method.baseline, method.indices],
            fit=fingerprints.meaning(method.fit),
            channels=method.channels,
            soft=method.soft_labels,
            encoder=encoder.fingerprint if encoder else None,
            train=[self.digests["windows"], fold.train],
            scored=scored,
            seed=seed,
        )
        return Target(result, asked, windows, condition)

    def _job(self, method: Method, fold: Fold, seed: int, targets: list[Target]) -> FitJob:
        name = f"{method.name}_fold-{fold.name}_seed-{seed}{'' if targets[0].windows else '_final'}"
        return FitJob(
            title=f"{method.name}, {fold}, seed {seed}",
            method=method,
            seed=seed,
            data=self.data,
            fold=fold,
            targets=tuple(targets),
            encoder=self._encoder(method, fold),
            work=self.output / "work" / name,
            log=self.output / "logs" / f"{name}.log",
            indices=self._indices if method.kind in ("baseline", "indices") else None,
        )

    def _encoder(self, method: Method, fold: Fold) -> EncoderJob | None:
        if method.kind != "network" or method.encoder == "none":
            return None
        if self.data.pretraining is None or not self.digests["pretraining"]:
            raise UserError(
                f"method {method.name} starts from a pretrained encoder; name its windows' folder with --pretraining"
                f"{'' if self.data.pretraining is None else f': {self.data.pretraining} holds no train_windows.npz'}"
            )
        others = self.digests.get("patients")
        if others is None and (method.pooled or method.encoder == "supervised"):
            raise UserError(f"method {method.name} needs further patients; name their files with --patients")
        windows = [self.digests["pretraining"], others] if method.pooled else self.digests["pretraining"]
        start = self._encoder_job("pretraining", method.pretrain, windows, pooled=method.pooled)
        if method.encoder == "pretrained":
            return start
        if method.encoder == "supervised":
            return self._encoder_job("supervision", method.supervise, others, supervised=True, source=start)
        data = [self.digests.get("unlabelled", self.digests["windows"]), fold.train]
        continued = {"fold": fold, "mixed": method.with_pretraining, "source": start}
        return self._encoder_job(f"adaptation, {fold}", method.adapt, data, **continued)

    def _encoder_job(self, title: str, arguments: str, data: Any, **continued: Any) -> EncoderJob:
        """Return an encoder's job; ``data`` tells apart what it is trained on."""
        source, mixed = continued.get("source"), continued.get("mixed", False)
        parts = {"arguments": fingerprints.meaning(arguments), "data": data, "mixed": mixed}
        asked = fingerprints.fingerprint(**parts, source=source and source.fingerprint)
        folder, log = self.output / "encoders" / asked, self.output / "logs" / f"encoder_{asked}.log"
        return EncoderJob(title, arguments, self.data, folder, asked, log, **continued)


def _missing(encoders: Iterable[EncoderJob | None]) -> list[EncoderJob]:
    """Return each encoder that is not there once."""
    found = {job.fingerprint: job for job in encoders if job is not None}
    return [job for job in found.values() if not fingerprints.is_done(job.result, job.fingerprint)]
