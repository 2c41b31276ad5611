"""`butppg sweep`: search the options of `butppg fit`, with any number of workers on one study."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from butppg_lightning.cli.configs import expand_config_paths, read_yaml
from butppg_lightning.cli.parser import command_parser
from butppg_lightning.cli.sweep.plan import Plan, nearest
from butppg_lightning.console import say
from butppg_lightning.errors import UserError

_DESCRIPTION = """Search the options of `butppg fit`: a YAML says what and how. Shipped: sweep/lr.yaml, \
sweep/inflation.yaml, sweep/augment.yaml. Start the same command as often as you like, on machines that share the \
folder: they work on one study; it also continues an interrupted one. Every option that is not listed below, and \
further --config, goes to every trial's `butppg fit`. Trials never see the test split."""
_EXAMPLE = "butppg sweep --config sweep/lr.yaml --output_dir artifacts/sweep_lr --data.root data/but_ppg"
_NEEDED = {"optuna": "optuna", "scikit-learn": "sklearn", "matplotlib": "matplotlib"}


def run(arguments: list[str]) -> None:
    """Run trials until the sweep is complete, then write and print what came out; names have underscores."""
    plan, passed = read_sweep(arguments)
    from butppg_lightning.cli.sweep.process import prepare

    prepare()  # beside the imports to come, which take as long
    from butppg_lightning.cli.sweep.jobs import run_trials
    from butppg_lightning.cli.sweep.storage import storage_reported
    from butppg_lightning.cli.sweep.study import CACHE, finish, make_method, open_study, remove_outcome
    from butppg_lightning.cli.sweep.worker import check_trials
    from butppg_lightning.data.features import remove_features

    make_method(plan, "sampler"), make_method(plan, "pruning")
    fit_arguments = [*expand_config_paths(plan.fit_arguments()), *passed]
    shared = check_trials(plan, fit_arguments)
    if shared["model.pretrained"] is None and "model.pretrained" not in plan.search:
        say("no --model.pretrained: the encoder of every trial starts from random weights")
    own_cache = shared["cache.folder"] is None
    if own_cache:  # trials whose data and frozen weights are the same share what the frozen blocks made of them
        fit_arguments.append(f"--cache.folder={plan.folder / CACHE}")
    with storage_reported():
        study = open_study(plan, plan.record(shared))
        if plan.overwrite:
            remove_outcome(plan.folder)
        if plan.trials:
            run_trials(plan, study, fit_arguments, shared)
            if own_cache:
                remove_features(plan.folder / CACHE)
        finish(plan, study)


def read_sweep(arguments: list[str]) -> tuple[Plan, list[str]]:
    """Return the plan that the command line and its YAML describe, and the arguments of every trial's `butppg fit`."""
    parser = command_parser("sweep", _DESCRIPTION, _EXAMPLE)
    how = "The sweep's YAML; its keys are the options of the next group."
    parser.add_argument("--config", action="config", help=how)
    parser.add_class_arguments(Plan, skip={"source"})
    known = parser.known_options()
    own, passed = (expand_config_paths(part) for part in _divide(arguments, [*known, "-h"]))
    config = own[own.index("--config") + 1] if "--config" in own[:-1] else ""
    if not {"-h", "--help"} & set(own):
        if not config:
            raise UserError("name the sweep: --config sweep/lr.yaml (shipped) or a YAML of your own; see --help")
        content = read_yaml(Path(config), config, "holds no keys; a sweep needs base and parameters")
        if "parameters" not in content and {"model", "data", "trainer", "stages"} & set(content):
            hint = "name it under base: of a sweep's YAML, or after that one"
            raise UserError(f"{config} is a config of `butppg fit`; {hint}")
        if unknown := [str(key) for key in content if f"--{key}" not in known]:
            raise UserError(f"{config}: unknown key {unknown[0]}{nearest(unknown[0], [name[2:] for name in known])}")
    options = parser.parse_args(own).as_dict()
    del options["config"]
    if missing := [name for name, module in _NEEDED.items() if find_spec(module) is None]:
        raise UserError(f"a sweep needs {', '.join(missing)}; pip install 'butppg-lightning[sweep]'")
    plan = Plan(Path(config), **options)
    for key in (argument[2:].partition("=")[0] for argument in passed if argument.startswith("--")):
        if key in ("resume", "ckpt_path", "test"):
            raise UserError(f"--{key} is no option of a sweep: trials start afresh and are never tested; drop it")
        if any(f"{parameter}.".startswith(f"{key}.") for parameter in plan.search):
            raise UserError(f"--{key} is a parameter of {plan.source}; drop the option, or take it out of the YAML")
    return plan, passed


def _divide(arguments: list[str], known: list[str]) -> tuple[list[str], list[str]]:
    """Divide arguments into the sweep's own and those for `butppg fit`; of several --config the first is the sweep's.

    Examples:
        >>> _divide(["--config", "lr.yaml", "--config=tiny.yaml", "--model.head", "mlp"], ["--config"])
        (['--config', 'lr.yaml'], ['--config', 'tiny.yaml', '--model.head', 'mlp'])
    """
    own: list[str] = []
    passed: list[str] = []
    target = own
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name.startswith("--") or name in known:
            target = own if name in known and not (name == "--config" and name in own) else passed
        target += [name, value] if name == "--config" and equals else [argument]
    return own, passed
