"""`butppg sweep`: search the options of `butppg fit`, with any number of workers on one study."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from butppg_lightning.cli.configs import expand_config_paths
from butppg_lightning.cli.parser import OneLineErrors, command_parser, parse
from butppg_lightning.console import say
from butppg_lightning.errors import UserError

_DESCRIPTION = (
    "Search the options of `butppg fit` by a YAML: base (configs of fit), fixed and parameters (dotted keys; a range "
    "{low, high, log, step} or a list of values), metric (val_auroc), trials (20), sampler (tpe, random, grid), "
    "pruning (none, median, hyperband), seed, keep (best: only the best trial keeps its weights; all). Shipped: "
    "sweep/lr.yaml, sweep/inflation.yaml, sweep/augment.yaml. Start the same command as often as you like, on machines "
    "that share the folder: they work on one study; it also continues an interrupted one. Every other option, and "
    "further --config, go to every trial's `butppg fit`. Trials never see the test split."
)
_NEEDED = {"optuna": "optuna", "scikit-learn": "sklearn", "matplotlib": "matplotlib"}


def run(arguments: list[str]) -> None:
    """Run `butppg sweep`."""
    parser = _parser()
    own, passed = _divide(arguments, parser)
    options = parse(parser, own)
    missing = [name for name, module in _NEEDED.items() if find_spec(module) is None]
    if missing:
        raise UserError(f"a sweep needs {', '.join(missing)}; pip install 'butppg-lightning[sweep]'")
    if options.config is None:
        raise UserError("name the sweep: --config sweep/lr.yaml (shipped) or a YAML of your own; see --help")
    _sweep(options, expand_config_paths(passed))


def _parser() -> OneLineErrors:
    parser = command_parser(
        "sweep",
        _DESCRIPTION,
        "butppg sweep --config sweep/lr.yaml --output_dir artifacts/sweep_lr --data.root data/but_ppg",
    )
    parser.add_argument("--config", type=str | None, default=None, help="The sweep's YAML.")
    parser.add_argument(
        "--trials", type=int | None, default=None, help="Trials in all; null for the YAML's; 0 shows what there is."
    )
    parser.add_argument(
        "--study",
        type=str | None,
        default=None,
        help="Path of a journal or URL of a database (sqlite:///, postgresql://); null for a journal in output_dir.",
    )
    parser.add_argument(
        "--output_dir",
        type=str | None,
        default=None,
        help="Folder of the sweep, the same for all workers; null for artifacts/sweep_NAME.",
    )
    parser.add_argument("--overwrite", type=bool, default=False, help="Replace the sweep that output_dir holds.")
    return parser


def _divide(arguments: list[str], parser: OneLineErrors) -> tuple[list[str], list[str]]:
    """Divide words into the sweep's own and those for `butppg fit`; of several --config the first is the sweep's.

    Examples:
        >>> _divide(["--config", "lr.yaml", "--config=tiny.yaml", "--trials", "3", "--model.head", "mlp"], _parser())
        (['--config', 'lr.yaml', '--trials', '3'], ['--config=tiny.yaml', '--model.head', 'mlp'])
    """
    known = {option for action in parser._actions for option in action.option_strings}
    own: list[str] = []
    passed: list[str] = []
    target, seen = own, False
    for word in arguments:
        name = word.partition("=")[0]
        if word.startswith("--") or name in known:
            target = own if name in known and not (name == "--config" and seen) else passed
            seen = seen or name == "--config"
        target.append(word)
    return own, passed


def _sweep(options: Any, passed: list[str]) -> None:
    from butppg_lightning.cli.sweep.plan import read_plan

    plan = read_plan(Path(expand_config_paths(["--config", options.config])[1]), options.trials)
    folder = Path(options.output_dir or f"artifacts/sweep_{plan.name}")
    _refuse_own(plan, passed)
    from butppg_lightning.cli.sweep.trial_process import leave_job_step, prepare

    leave_job_step()
    prepare()  # beside the imports to come, which take as long
    from butppg_lightning.cli.sweep.checking import binding, check_trials
    from butppg_lightning.cli.sweep.folder import CACHE, claim_folder, remove_sweep
    from butppg_lightning.cli.sweep.outcome import finish
    from butppg_lightning.cli.sweep.study import check_methods, delete_study, open_study
    from butppg_lightning.cli.sweep.worker import Worker

    check_methods(plan)
    words = [*expand_config_paths(plan.fixed_words()), *passed]
    shared = check_trials(plan, words)
    if shared["model.pretrained"] is None and "model.pretrained" not in (one.key for one in plan.parameters):
        say("no --model.pretrained: the encoder of every trial starts from random weights")
    own_cache = shared["cache.folder"] is None
    if own_cache:
        words.append(f"--cache.folder={folder / CACHE}")
    if options.overwrite:
        remove_sweep(folder)
        delete_study(plan, options.study, folder)
    claim_folder(plan, binding(plan, shared), folder)
    study = open_study(plan, options.study, folder)
    if plan.trials:
        Worker(plan, study, words, folder).run()
        if own_cache:
            from butppg_lightning.data.feature_files import remove_features

            remove_features(folder / CACHE)
    finish(plan, study, folder)


def _refuse_own(plan: Any, passed: list[str]) -> None:
    given = [word[2:].partition("=")[0] for word in passed if word.startswith("--")]
    for key in given:
        if key in ("resume", "ckpt_path", "test"):
            raise UserError(f"--{key} is no option of a sweep: trials start afresh and are never tested; drop it")
        if any(f"{parameter.key}.".startswith(f"{key}.") for parameter in plan.parameters):
            raise UserError(f"--{key} is a parameter of {plan.source}; drop the option, or take it out of the YAML")
