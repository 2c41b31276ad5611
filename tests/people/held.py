"""What methods say of windows whose people they were not trained on, read back from the predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import logit

from people.baselines import rank_mean
from people.comparison import within_subject_auroc
from people.folds import Fold
from people.methods import COMBINED, Method
from people.study import DRAWS

if TYPE_CHECKING:
    from butppg_lightning.npz import Array
    from people.study import Study

_SPREADS = 10.0  # interquartile ranges from the median, beyond which a baseline's score is one that means "cannot tell"
_NEAREST = 1e-3  # to 0 and 1 of a baseline's probabilities: a forest's votes


@dataclass(eq=False)
class Held:
    """What a method says of windows whose people it was not trained on.

    Attributes:
        method: The method.
        labels: ``[N]`` in {0 poor, 1 good}.
        subjects: ``[N]`` names.
        scores: ``[S, N]``, one row per seed, higher for good: logits of networks.
        folds: ``[N]`` number of the fold in which a window was held out.
        within: ``[S, N]`` what ranks a person's windows among themselves; None for ``scores``.
        chosen: Of a choice, the member that each fold took.
    """

    method: Method
    labels: Array
    subjects: Array
    scores: Array
    folds: Array
    within: Array | None = None
    chosen: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What tables and pictures call the method."""
        return self.method.title or self.method.name

    @property
    def logits(self) -> Array:
        """``[S, N]`` what is calibrated: logits as they are, other scores without what lies far outside."""
        if self.method.kind in ("network", "ensemble", "choose"):
            return self.scores
        if self.scores.min() >= 0 and self.scores.max() <= 1:
            return np.asarray(logit(np.clip(self.scores, _NEAREST, 1 - _NEAREST)))
        low, middle, high = np.percentile(self.scores, [25, 50, 75])
        return np.asarray(np.clip(self.scores, middle - _SPREADS * (high - low), middle + _SPREADS * (high - low)))


def gather(study: Study, methods: Mapping[str, Method]) -> dict[str, Held]:
    """Return what every method says of held-out windows."""
    labels, subjects = np.asarray(study.windows.labels), np.asarray(study.windows.subjects)
    folds = np.select([np.isin(subjects, fold.test) for fold in study.folds], range(len(study.folds)))
    found: dict[str, Held] = {}
    for name, method in methods.items():
        if method.kind == "choose":
            found[name] = choose(method, found, [_best_inside(study, method, found, fold) for fold in study.folds])
        elif method.kind in COMBINED:
            found[name] = combine(method, found)
        else:
            scores = [_scores(study, partial(study.prediction, method, seed=seed)) for seed in study.seeds_of(method)]
            found[name] = Held(method, labels, subjects, np.stack(scores), folds)
    return found


def gather_under(study: Study, condition: str, held: Held) -> Held:
    """Return what a method says of the same windows under a condition."""
    under = partial(study.under, condition, held.method)
    scores = [_scores(study, partial(under, seed=seed)) for seed in study.seeds_of(held.method)]
    return replace(held, scores=np.stack(scores))


def gather_with_few(study: Study, people: int, held: Held) -> Held | None:
    """Return what a method says after training on so few people, a row per draw; None if folds have no more."""
    draws = [study.fewer(people, draw) for draw in range(DRAWS)]
    if not all(draws):
        return None
    scores = [
        _scores(study, partial(study.prediction, held.method, seed=draw), folds) for draw, folds in enumerate(draws)
    ]
    return replace(held, scores=np.stack(scores))


def _scores(study: Study, path_of: Callable[[Fold], Path], folds: Sequence[Fold] | None = None) -> Array:
    """Return the scores ``[N]`` that are in a file for each fold."""
    scores = np.full(len(study.windows), np.nan)
    for fold in study.folds if folds is None else folds:
        table = read_predictions(path_of(fold))
        scores[table["row"]] = table.iloc[:, -1]
    return scores


def _best_inside(study: Study, method: Method, found: Mapping[str, Held], fold: Fold) -> str:
    """Return the member that ranks best the people a fold trains on, each held out in turn inside it."""
    means: dict[str, float] = {}
    for name in method.members:
        paths = [study.prediction(found[name].method, inside, 0) for inside in study.inside[fold.name]]
        table = pd.concat([read_predictions(path) for path in paths])
        score = within_subject_auroc(table["label"], table.iloc[:, -1], table["subject"])[1]
        means[name] = -1.0 if score is None else score
    return max(means, key=means.__getitem__)  # the first of equals


def choose(method: Method, found: Mapping[str, Held], names: Sequence[str]) -> Held:
    """Return what a choice says: of each fold's windows, what the member says that was chosen for the fold."""
    first = found[method.members[0]]
    scores = np.empty((max(len(found[name].scores) for name in names), len(first.labels)))
    for fold, name in enumerate(names):
        rows, logits = first.folds == fold, found[name].logits  # so that probabilities and logits are alike
        for seed in range(len(scores)):
            scores[seed, rows] = logits[seed % len(logits), rows]
    return Held(method, first.labels, first.subjects, scores, first.folds, chosen=tuple(names))


def read_predictions(path: Path) -> pd.DataFrame:
    """Return a file of predictions, with all digits; its last column is the score."""
    return pd.read_csv(path, float_precision="round_trip")


def gather_external(study: Study, methods: Mapping[str, Method]) -> dict[str, Held]:
    """Return what the methods that ask for it say of the external windows."""
    found: dict[str, Held] = {}
    for name, method in methods.items():
        if not method.external:
            continue
        if method.kind not in COMBINED:
            tables = [read_predictions(study.external_prediction(method, seed)) for seed in study.seeds_of(method)]
            scores, subjects = np.stack([table.iloc[:, -1] for table in tables]), tables[0]["subject"].to_numpy()
            found[name] = Held(method, tables[0]["label"].to_numpy(), subjects, scores, np.zeros(len(subjects)))
        elif method.kind != "choose" and set(method.members) <= set(found):
            found[name] = combine(method, found)
    return found


def combine(method: Method, found: Mapping[str, Held]) -> Held:
    """Return what an ``ensemble`` or a ``rank_mean`` says, from what its members say of the same windows.

    Ranks are taken within each person's windows, and for what is pooled over people among all windows.
    """
    first = found[method.members[0]]
    if method.kind == "ensemble":
        return Held(method, first.labels, first.subjects, first.scores.mean(axis=0, keepdims=True), first.folds)
    members = [found[name].scores for name in method.members]
    seeds = max(len(scores) for scores in members)
    pooled, within = np.empty((2, seeds, len(first.labels)))
    for seed in range(seeds):
        scores = [each[seed % len(each)] for each in members]
        pooled[seed] = rank_mean(scores)
        for name in np.unique(first.subjects):
            rows = first.subjects == name
            within[seed, rows] = rank_mean([each[rows] for each in scores])
    return Held(method, first.labels, first.subjects, pooled, first.folds, within)
