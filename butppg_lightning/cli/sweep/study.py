"""The study that all workers of a sweep share: its storage, its sampler and the state of its trials."""

from __future__ import annotations

import warnings
import zlib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import TrialState

from butppg_lightning.cli.sweep.folder import JOURNAL, sweep_id, trial_folder
from butppg_lightning.cli.sweep.plan import grid_point, nearest
from butppg_lightning.errors import UserError
from butppg_lightning.files import make_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

    from butppg_lightning.cli.sweep.liveness import Watch
    from butppg_lightning.cli.sweep.plan import Plan

DONE = (TrialState.COMPLETE, TrialState.PRUNED)

_SAMPLERS = {
    "tpe": optuna.samplers.TPESampler,
    "random": optuna.samplers.RandomSampler,
    "grid": optuna.samplers.RandomSampler,  # asked for nothing: the point is fixed
}
_PRUNERS = {
    "none": optuna.pruners.NopPruner,
    "median": optuna.pruners.MedianPruner,
    "hyperband": optuna.pruners.HyperbandPruner,
}


class PlacedSampler(optuna.samplers.BaseSampler):
    """Draws each trial's parameters from the plan's seed and the trial's place in the sweep.

    So workers do not draw the same, a continued study goes on as an uninterrupted one would, and a grid is gone
    through point by point by any number of workers.

    Args:
        plan: The sweep.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._inner: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler()
        self._point: dict[str, Any] = {}

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Seed the sampler for the trial."""
        place = place_of(trial, study.get_trials(deepcopy=False))
        method = self.plan.sampler["method"]
        seed = zlib.crc32(f"{self.plan.seed}/{place}".encode())
        self._inner = _make(self.plan, "sampler", _SAMPLERS[method], self.plan.sampler, seed=seed)
        self._point = grid_point(self.plan, place) if method == "grid" else {}
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Ask the sampler."""
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Ask the sampler."""
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Take the grid's point, or ask the sampler."""
        if param_name in self._point:
            return self._point[param_name]
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Tell the sampler."""
        self._inner.after_trial(study, trial, state, values)


def check_methods(plan: Plan) -> None:
    """Prove that the sampler and the pruner take the options that a plan gives them.

    Raises:
        UserError: If one does not.
    """
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    _make(plan, "sampler", _SAMPLERS[plan.sampler["method"]], plan.sampler)
    _make(plan, "pruning", _PRUNERS[plan.pruning["method"]], plan.pruning)


def open_study(plan: Plan, where: str | None, folder: Path) -> optuna.Study:
    """Open the study of a sweep, or begin it.

    Args:
        plan: The sweep.
        where: Path of a journal, or URL of a database; None for a journal in ``folder``.
        folder: The sweep's folder, the same for all workers.

    Raises:
        UserError: If it cannot be opened, or belongs to another folder.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        storage=_storage(where, folder),
        sampler=PlacedSampler(plan),
        pruner=_make(plan, "pruning", _PRUNERS[plan.pruning["method"]], plan.pruning),
        study_name=plan.name,
        direction=optuna.study.StudyDirection[plan.direction.upper()],
        load_if_exists=True,
    )
    own = sweep_id(folder)
    other = study.user_attrs.get("sweep", own)
    if other != own:
        raise UserError(
            f"the study {plan.name} in {where} has its trials in {study.user_attrs['folder']}, not in {folder}: all "
            f"workers need the same --output_dir; for another study add, say, name: {plan.name}2 to {plan.source}"
        )
    if "sweep" not in study.user_attrs:
        study.set_user_attr("folder", str(folder.resolve()))
        study.set_user_attr("sweep", own)
    return study


def delete_study(plan: Plan, where: str | None, folder: Path) -> None:
    """Remove a sweep's study from where it is stored, if it is there."""
    with suppress(KeyError):
        optuna.delete_study(study_name=plan.name, storage=_storage(where, folder))


def place_of(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> int:
    """Return a trial's place in the sweep: its number among those that replace no other and are not too many."""
    if "place" in trial.user_attrs:
        return int(trial.user_attrs["place"])
    return sum(other.number < trial.number for other in trials if is_fresh(other))


def is_fresh(trial: FrozenTrial) -> bool:
    """Tell whether a trial takes a place of its own: it replaces no lost one, and was not begun as one too many."""
    return "place" not in trial.user_attrs and not trial.user_attrs.get("surplus")


def give_up(study: optuna.Study, trial: FrozenTrial, reason: str) -> bool:
    """Mark a running trial as lost, and put one with the same parameters in line.

    Returns:
        Whether this worker was the first to do so.
    """
    place = place_of(trial, study.get_trials(deepcopy=False))
    try:
        study._storage.set_trial_user_attr(trial._trial_id, "lost", reason)
        first = study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
    except optuna.exceptions.UpdateFinishedTrialError:
        return False
    if first:
        study.enqueue_trial(trial.params, user_attrs={"place": place, "instead_of": trial.number})
    return first


def give_up_lost(study: optuna.Study, watch: Watch, folder: Path) -> list[int]:
    """Give up the running trials whose worker is gone; returns their numbers."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    lost = [trial for trial in running if watch.is_lost(trial_folder(folder, trial.number))]
    return [trial.number for trial in lost if give_up(study, trial, "its worker was killed")]


def _storage(where: str | None, folder: Path) -> optuna.storages.BaseStorage:
    from optuna.storages.journal import JournalFileBackend

    if where is not None and "://" in where:
        try:
            return optuna.storages.RDBStorage(where)
        except Exception as error:  # of the database's own driver
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"--study {where} cannot be opened: {reason}") from error
    path = folder / JOURNAL if where is None else Path(where)
    make_folder(path.parent)
    try:
        return optuna.storages.JournalStorage(JournalFileBackend(str(path)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"--study {path} cannot be opened as a journal of Optuna: {error}") from error


def _make(plan: Plan, key: str, kind: Any, content: dict[str, Any], **more: Any) -> Any:
    import inspect

    options = {name: value for name, value in content.items() if name != "method"}
    known = [name for name in inspect.signature(kind).parameters if name != "seed"]
    for name in options:
        if name not in known:
            hint = nearest(name, known) if known else f"; {content['method']} takes none"
            raise UserError(f"{plan.source}: {key} has no option {name}{hint}")
    try:
        return kind(**options, **more)
    except (TypeError, ValueError) as error:
        raise UserError(f"{plan.source}: {key}: {' '.join(str(error).split())}") from error
