"""`butppg sweep`: search the options of `butppg fit`, with any number of workers on one study."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from butppg_lightning.cli.configs import expand_config_paths, read_yaml
from butppg_lightning.cli.parser import OneLineErrors, command_parser
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
    """Run `butppg sweep`."""
    plan, options, passed = read_sweep(arguments)
    sweep(plan, passed, **options)


def sweep(
    plan: Plan, passed: list[str], *, study: str | None = None, output_dir: str | None = None, overwrite: bool = False
) -> None:
    """Run trials until the sweep is complete, then write and print what came out.

    Args:
        plan: What to search.
        passed: Arguments of every trial's `butppg fit`.
        study: File (SQLite) or database (postgresql://...) of the study; null for study.db in output_dir.
        output_dir: Folder of the sweep, the same for all workers; null for artifacts/sweep_NAME.
        overwrite: Replace the sweep that output_dir holds.

    Raises:
        UserError: If the plan, an argument, the data or the model is wrong, or trials fail from the start.
        StoppedError: If a signal ended it; the same command continues.
    """
    from butppg_lightning.cli.sweep.process import prepare

    prepare()  # beside the imports to come, which take as long
    from butppg_lightning.cli.sweep.outcome import CACHE, finish, remove_outcome
    from butppg_lightning.cli.sweep.study import make_method, open_study
    from butppg_lightning.cli.sweep.worker import Worker, check_trials
    from butppg_lightning.data.features import remove_features

    folder = Path(output_dir or f"artifacts/sweep_{plan.name}")
    make_method(plan, "sampler"), make_method(plan, "pruning")
    arguments = [*expand_config_paths(plan.fit_arguments()), *passed]
    shared = check_trials(plan, arguments)
    if shared["model.pretrained"] is None and "model.pretrained" not in plan.search:
        say("no --model.pretrained: the encoder of every trial starts from random weights")
    own_cache = shared["cache.folder"] is None
    if own_cache:  # trials whose data and frozen weights are the same share what the frozen blocks made of them
        arguments.append(f"--cache.folder={folder / CACHE}")
    opened = open_study(plan, plan.record(shared), study, folder, overwrite)
    if overwrite:
        remove_outcome(folder)
    if plan.trials:
        Worker(plan, opened, arguments, folder).run()
        if own_cache:
            remove_features(folder / CACHE)
    finish(plan, opened, folder)


def read_sweep(arguments: list[str]) -> tuple[Plan, dict[str, Any], list[str]]:
    """Return the plan that the command line and its YAML describe, the other options, and `butppg fit`'s arguments.

    Raises:
        UserError: If something in them is wrong.
    """
    parser = command_parser("sweep", _DESCRIPTION, _EXAMPLE)
    parser.add_argument(
        "--config", action="config", help="The sweep's YAML; its keys are the options of the next group."
    )
    parser.add_class_arguments(Plan, skip={"source"})
    parser.add_function_arguments(sweep, skip={"plan", "passed"})
    own, passed = (expand_config_paths(part) for part in _divide(arguments, parser))
    config = own[own.index("--config") + 1] if "--config" in own[:-1] else ""
    if not {"-h", "--help"} & set(own):
        if not config:
            raise UserError("name the sweep: --config sweep/lr.yaml (shipped) or a YAML of your own; see --help")
        content = read_yaml(Path(config), config, "holds no keys; a sweep needs base and parameters")
        if "parameters" not in content and {"model", "data", "trainer", "stages"} & set(content):
            hint = "name it under base: of a sweep's YAML, or after that one"
            raise UserError(f"{config} is a config of `butppg fit`; {hint}")
        known = [name[2:] for action in parser._actions for name in action.option_strings]
        if unknown := [key for key in content if key not in known]:
            raise UserError(f"{config}: unknown key {unknown[0]}{nearest(str(unknown[0]), known)}")
    options = parser.parse_args(own).as_dict()
    if missing := [name for name, module in _NEEDED.items() if find_spec(module) is None]:
        raise UserError(f"a sweep needs {', '.join(missing)}; pip install 'butppg-lightning[sweep]'")
    plan = Plan(Path(config), **{key: options[key] for key in Plan.__annotations__ if key != "source"})
    for key in (argument[2:].partition("=")[0] for argument in passed if argument.startswith("--")):
        if key in ("resume", "ckpt_path", "test"):
            raise UserError(f"--{key} is no option of a sweep: trials start afresh and are never tested; drop it")
        if any(f"{parameter}.".startswith(f"{key}.") for parameter in plan.search):
            raise UserError(f"--{key} is a parameter of {plan.source}; drop the option, or take it out of the YAML")
    return plan, {key: options[key] for key in ("study", "output_dir", "overwrite")}, passed


def _divide(arguments: list[str], parser: OneLineErrors) -> tuple[list[str], list[str]]:
    """Divide arguments into the sweep's own and those for `butppg fit`; of several --config the first is the sweep's.

    Examples:
        >>> parser = OneLineErrors()
        >>> _ = parser.add_argument("--config")
        >>> _divide(["--config", "lr.yaml", "--config=tiny.yaml", "--model.head", "mlp"], parser)
        (['--config', 'lr.yaml'], ['--config', 'tiny.yaml', '--model.head', 'mlp'])
    """
    known = {option for action in parser._actions for option in action.option_strings}
    own: list[str] = []
    passed: list[str] = []
    target = own
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name.startswith("--"):
            argument = (name := "--" + name[2:].replace("-", "_")) + equals + value
        if name.startswith("--") or name in known:
            target = own if name in known and not (name == "--config" and name in own) else passed
        target += [name, value] if name == "--config" and equals else [argument]
    return own, passed
