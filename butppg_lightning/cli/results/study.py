"""One comparison: its data, its people, its seeds, and which jobs are left to do."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from butppg_lightning.cli.results import fingerprints
from butppg_lightning.cli.results.folds import (
    Fold,
    everybody,
    join,
    make_folds,
    save_once,
    softened,
    training_windows,
    unlabelled_windows,
)
from butppg_lightning.cli.results.jobs import KEPT, EncoderJob, FitJob
from butppg_lightning.errors import UserError
from butppg_lightning.window import read_windows

if TYPE_CHECKING:
    from pathlib import Path

    from butppg_lightning.cli.results.definition import Method
    from butppg_lightning.window import WindowSet

Digest = str | dict[str, str]


@dataclass(frozen=True)
class Study:
    """What is asked, of which data.

    Attributes:
        windows_file: Labelled windows with subjects.
        unlabelled_file: Windows of the same subjects for self-supervision; None for the fold's training windows.
        pretraining: Folder with train_windows.npz, or None.
        external_file: Labelled windows of others, which nothing is trained on, or None.
        output: Where everything goes.
        folds_asked: ``subject``, or a number.
        seeds: Seeds of every method.
    """

    windows_file: Path
    unlabelled_file: Path | None
    pretraining: Path | None
    external_file: Path | None
    output: Path
    folds_asked: str
    seeds: int
    _encoders: dict[str, EncoderJob] = field(default_factory=dict)
    _roots: dict[Path, tuple[Fold, str]] = field(default_factory=dict)
    _unlabelled_roots: dict[Path, tuple[Fold, bool]] = field(default_factory=dict)

    @cached_property
    def windows(self) -> WindowSet:
        """The labelled windows."""
        return read_windows(self.windows_file, labelled=True)

    @cached_property
    def unlabelled(self) -> WindowSet | None:
        """The unlabelled windows."""
        return None if self.unlabelled_file is None else read_windows(self.unlabelled_file, labelled=False)

    @cached_property
    def folds(self) -> list[Fold]:
        """Who is held out."""
        return make_folds(self.windows, self.folds_asked)

    @cached_property
    def digests(self) -> dict[str, Digest]:
        """Digests of the data."""
        files = {
            "windows": self.windows_file,
            "unlabelled": self.unlabelled_file,
            "external": self.external_file,
        }
        found: dict[str, Digest] = {name: fingerprints.digest_of(path) for name, path in files.items() if path}
        return found | ({"pretraining": fingerprints.digest_of_folder(self.pretraining)} if self.pretraining else {})

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
        """The folder of the run on everybody."""
        return self.output / "final"

    def jobs(self, methods: list[Method]) -> list[FitJob]:
        """Return the jobs of all predictions of some methods, done or not."""
        single = [method for method in methods if method.kind in ("network", "rival", "indices")]
        return [
            self._job(method, fold, seed, self.windows_file, self.prediction(method, fold, seed))
            for fold in self.folds
            for method in single
            for seed in self.seeds_of(method)
        ]

    def external_jobs(self, methods: list[Method]) -> list[FitJob]:
        """Return the jobs of the external predictions of the methods that ask for it."""
        if self.external_file is None:
            return []
        fold, single = everybody(self.windows), ("network", "rival", "indices")
        return [
            self._job(method, fold, seed, self.external_file, self.external_prediction(method, seed))
            for method in methods
            if method.external and method.kind in single
            for seed in self.seeds_of(method)
        ]

    def final_job(self, method: Method) -> FitJob:
        """Return the job that trains on everybody and keeps its run."""
        return self._job(method, everybody(self.windows), 0, self.windows_file, None)

    def todo(self, jobs: list[FitJob]) -> list[FitJob]:
        """Return the jobs whose results are not there, or were made from something else."""
        return [job for job in jobs if not fingerprints.is_done(job.result or job.run_folder / KEPT, job.fingerprint)]

    def encoders(self, jobs: list[FitJob]) -> list[list[EncoderJob]]:
        """Return the encoders that jobs still need: those trained from nothing, then those that continue one."""
        wanted = {job.encoder for job in jobs}
        continued = [job for job in self._missing() if job.result in wanted and job.source is not None]
        sources = wanted | {job.source for job in continued}
        first = [job for job in self._missing() if job.result in sources and job.source is None]
        return [first, continued]

    def write_folds(self, jobs: list[FitJob], encoders: list[EncoderJob]) -> None:
        """Write the files that jobs train on.

        Raises:
            UserError: If a held-out person or window would be among them, or nothing can be written.
        """
        for root in {job.root for job in jobs}:
            fold, soft = self._roots[root]
            train = training_windows(self.windows, fold, str(self.windows_file))
            save_once(train if not soft else softened(train, soft, str(self.windows_file)), root / "train.npz")
        for root in {job.root for job in encoders if job.source is not None}:
            fold, mixed = self._unlabelled_roots[root]
            place = str(self.unlabelled_file or self.windows_file)
            parts = [("own", unlabelled_windows(self.windows, self.unlabelled, fold, place))]
            if mixed and self.pretraining is not None:
                parts.append(("pretraining", read_windows(self.pretraining / "train_windows.npz", labelled=False)))
            save_once(join(parts), root / "train_windows.npz")

    def _missing(self) -> list[EncoderJob]:
        return [job for job in self._encoders.values() if not fingerprints.is_done(job.result, job.fingerprint)]

    def _job(self, method: Method, fold: Fold, seed: int, windows: Path, result: Path | None) -> FitJob:
        encoder = self._encoder(method, fold)
        name = f"{method.name} fold-{fold.name}_seed-{seed}"
        asked = fingerprints.fingerprint(
            kind=method.kind,
            fit=fingerprints.meaning(method.fit),
            members=method.members,
            channels=method.channels,
            soft=method.soft_labels,
            encoder=encoder.fingerprint if encoder else None,
            train=[self.digests["windows"], fold.train],
            scored=self.digests["external"] if windows == self.external_file else fold.test,
            seed=seed,
        )
        return FitJob(
            title=f"{method.name}, {self._told(fold)}, seed {seed}",
            method=method,
            seed=seed,
            root=self._root(fold, method.soft_labels),
            encoder=encoder.result if encoder else None,
            windows=windows,
            subjects=fold.test or None,
            result=result,
            run_folder=self.output / "work" / "runs" / name.replace(" ", "_") if result else self.final,
            fingerprint=asked,
            log=self.output / "logs" / f"{name.replace(' ', '_')}{'' if result else '_final'}.log",
        )

    def _encoder(self, method: Method, fold: Fold) -> EncoderJob | None:
        if method.kind != "network" or method.encoder == "none":
            return None
        if self.pretraining is None or not self.digests["pretraining"]:
            raise UserError(
                f"method {method.name} starts from a pretrained encoder; name its windows' folder with --pretraining"
                f"{'' if self.pretraining is None else f': {self.pretraining} holds no train_windows.npz'}"
            )
        asked = fingerprints.fingerprint(words=fingerprints.meaning(method.pretrain), data=self.digests["pretraining"])
        start = self._known(
            EncoderJob("pretraining", method.pretrain, self.pretraining, None, self._folder(asked), asked, self.output)
        )
        if method.encoder == "pretrained":
            return start
        asked = fingerprints.fingerprint(
            words=fingerprints.meaning(method.adapt),
            start=start.fingerprint,
            data=[self.digests.get("unlabelled", self.digests["windows"]), fold.train],
            mixed=method.with_pretraining,
        )
        root, title = self._unlabelled_root(fold, method.with_pretraining), f"adaptation, {self._told(fold)}"
        return self._known(EncoderJob(title, method.adapt, root, start.result, self._folder(asked), asked, self.output))

    def _known(self, job: EncoderJob) -> EncoderJob:
        job = replace(job, log=self.output / "logs" / f"encoder_{job.fingerprint}.log")
        return self._encoders.setdefault(job.fingerprint, job)

    def _folder(self, fingerprint: str) -> Path:
        return self.output / "encoders" / fingerprint

    def _told(self, fold: Fold) -> str:
        return f"without {', '.join(fold.test)}" if 0 < len(fold.test) <= 3 else f"fold {fold.name}"

    def _key(self, fold: Fold) -> str:
        return fingerprints.fingerprint(windows=self.digests["windows"], fold=[fold.train, fold.test])

    def _root(self, fold: Fold, soft: str) -> Path:
        key = fingerprints.fingerprint(key=self._key(fold), soft=soft)
        root = self.output / "work" / f"fold-{fold.name}_{key}"
        self._roots[root] = fold, soft
        return root

    def _unlabelled_root(self, fold: Fold, mixed: bool) -> Path:
        names = ("unlabelled", "pretraining") if mixed else ("unlabelled",)
        key = fingerprints.fingerprint(key=self._key(fold), data=[self.digests.get(name) for name in names])
        root = self.output / "work" / f"unlabelled-{fold.name}_{key}"
        self._unlabelled_roots[root] = fold, mixed
        return root
