"""What is compared: methods, and rows of an ablation, each one line of a YAML file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ArgumentError, ArgumentParser
from jsonargparse.typing import PositiveInt, restricted_string_type

from butppg_lightning.console import say
from butppg_lightning.errors import UserError
from people.baselines import BASELINES

Name = restricted_string_type("Name", r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")
COMBINED = ("ensemble", "rank_mean", "choose")
_KINDS = ("baseline", "indices", *COMBINED)
_ARGUMENTS = ("fit", "pretrain", "adapt", "supervise")
_NETWORK = (*_ARGUMENTS, "encoder", "pooled", "with_pretraining", "channels", "soft_labels")


@dataclass(frozen=True)
class Method:
    """A method of the comparison: the keys of its row in the YAML file.

    Attributes:
        name: Its key, also a folder's name.
        title: What the tables call it; empty for its name.
        group: Heading in the ablation's table.
        table: Which table it stands in.
        seeds: How many seeds are of use; None for all that are asked for.
        needs: A package that the extra `dev` does not bring; where it is absent the row is left out, and that is said.
        external: Whether it is also scored on the external records.
        drawn: Whether it is in the pictures of curves.
        fit: Arguments of ``butppg fit``.
        conditions: Whether held-out windows are also scored as other devices would have recorded them.
        curve: Whether it is also trained on few people.
        encoder: What a network starts from: ``none``, the ``pretrained`` encoder, the ``adapted`` one, whose
            self-supervision went on with the fold's training people, or the ``supervised`` one, which was fitted to
            the further patients' labels.
        pooled: Whether the pretraining has the further patients too.
        pretrain: Arguments of ``butppg pretrain`` for the pretraining.
        adapt: Arguments of ``butppg pretrain`` for its continuation.
        supervise: Arguments of ``butppg fit`` on the further patients.
        with_pretraining: Whether the continuation also sees the pretraining's windows.
        channels: The only ones that are there, for training and for scoring; None for all.
        soft_labels: Array of the windows' file with the share of each window that is spoiled, to train on 1 less it.
        baseline: In place of a network: one of :data:`people.baselines.BASELINES`.
        indices: In place of a network: groups of signal indices for a logistic regression.
        ensemble: In place of a network: the network whose logits are averaged over its seeds.
        rank_mean: In place of a network: methods whose ranks within each person are averaged.
        choose: In place of a network: methods of which each fold takes the one that ranks best among the people it
            trains on, held out in turn inside it.
    """

    name: Name  # type: ignore[valid-type]
    title: str = ""
    group: str = ""
    table: Literal["methods", "channels", "ablation"] = "methods"
    seeds: PositiveInt | None = None
    needs: str = ""
    external: bool = False
    drawn: bool = False
    conditions: bool = False
    curve: bool = False
    fit: str = ""
    encoder: Literal["none", "pretrained", "adapted", "supervised"] = "adapted"
    pooled: bool = False
    pretrain: str = ""
    adapt: str = ""
    supervise: str = ""
    with_pretraining: bool = False
    channels: list[str] | None = None
    soft_labels: str = ""
    baseline: str = ""
    indices: list[str] = field(default_factory=list)
    ensemble: str = ""
    rank_mean: list[str] = field(default_factory=list)
    choose: list[str] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """``network`` (trained by `butppg fit`), or the key that says what stands in its place."""
        return next((kind for kind in _KINDS if getattr(self, kind)), "network")

    @property
    def members(self) -> list[str]:
        """The methods that it combines."""
        return [self.ensemble] if self.ensemble else self.rank_mean or self.choose


@dataclass(frozen=True)
class Question:
    """Whether one method is above another: a row of ``questions``.

    Attributes:
        title: What is asked, for example ``pretrained above from scratch``.
        this: Name of the method that ought to be above.
        than: Name of the other one.
    """

    title: str
    this: str
    than: str


@dataclass(frozen=True)
class Definition:
    """All methods of a file.

    Attributes:
        path: The file.
        methods: By name, in the file's order.
        reference: Name of the network that the others are compared with.
        questions: Pairs of methods that are compared besides.
    """

    path: Path
    methods: dict[str, Method]
    reference: str
    questions: tuple[Question, ...] = ()

    def chosen(self, names: Iterable[str]) -> dict[str, Method]:
        """Return the named methods (all, if none is), the reference, and whatever they are combined from."""
        wanted = [self.reference, *(list(names) or self.methods)]
        for name in wanted:
            if name not in self.methods:
                raise UserError(f"--methods names '{name}'; {self.path} has {', '.join(self.methods)}")
            wanted += [member for member in self.methods[name].members if member not in wanted]
        found = {name: method for name, method in self.methods.items() if name in wanted}
        for name, method in list(found.items()):
            if method.needs and find_spec(method.needs) is None:
                say(f"note: {name} is left out, because it needs {method.needs}, which is not installed")
                del found[name]
        return found


def read_definition(path: Path) -> Definition:
    """Read a file of methods such as ``methods.yaml``; a row that cannot be understood is an error that names it."""
    content = _read(path, ("defaults", "reference", "methods", "questions"))
    methods: dict[str, Method] = {}
    for row in content["methods"]:
        _add(path, methods, row, content.get("defaults", {}))
    reference = content.get("reference", next(iter(methods)))
    if reference not in methods or methods[reference].kind != "network":
        raise UserError(f"{path}: reference '{reference}' is no method that `butppg fit` trains; name one of them")
    return Definition(path, methods, reference, _questions(path, content.get("questions", []), methods))


def read_ablation(path: Path, definition: Definition) -> Definition:
    """Read the rows of an ablation: methods whose ``base`` is the reference unless they name another one.

    Returns:
        The reference first, then the methods that rows are combined from, and the rows.
    """
    reference, known = definition.methods[definition.reference], dict(definition.methods)
    for row in _read(path, ("methods",))["methods"]:
        _add(path, known, {"table": "ablation", **row}, _of_network(reference))
    rows = {name: method for name, method in known.items() if name not in definition.methods}
    combined = {member: known[member] for method in rows.values() for member in method.members}
    return Definition(path, {reference.name: reference, **combined, **rows}, definition.reference)


def _read(path: Path, known: tuple[str, ...]) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not set(content) <= set(known):
        raise UserError(f"{path} has other keys than {', '.join(known)}")
    rows = content.get("methods")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: expected methods, a list such as - {{name: wide, fit: --model.lr 1e-3}}")
    return content


def _questions(path: Path, rows: list[dict[str, Any]], methods: dict[str, Method]) -> tuple[Question, ...]:
    keys = {item.name for item in fields(Question)}
    for row in rows:
        if set(row) != keys or not {row["this"], row["than"]} <= set(methods):
            raise UserError(f"{path}: question {row} must have title, and as this and than names of methods")
    return tuple(Question(**row) for row in rows)


def _of_network(method: Method) -> dict[str, Any]:
    return {key: getattr(method, key) for key in _NETWORK}


def _add(path: Path, methods: dict[str, Method], row: dict[str, Any], base: dict[str, Any]) -> None:
    """Add a row, which has of its own what it says, and the rest from the method that it varies."""
    row, place = dict(row), f"{path}, {row.get('name', 'a method without a name')}"
    if (name := row.pop("base", None)) is not None:
        if name not in methods or methods[name].kind != "network":
            raise UserError(f"{place}: base '{name}' is no earlier method that `butppg fit` trains")
        base = _of_network(methods[name])
    kinds = [key for key in _KINDS if key in row]
    if len(kinds) > 1 or (kinds and set(row) & set(_NETWORK)):
        other = kinds[1] if len(kinds) > 1 else min(set(row) & set(_NETWORK))
        raise UserError(f"{place}: {kinds[0]} and {other} exclude each other")
    merged = row if kinds else {**base, **row}
    for key in _ARGUMENTS if not kinds else ():
        merged[key] = f"{base.get(key, '')} {row.get(key, '')}".strip()
    try:
        method = Method(**vars(_ROW.parse_object(merged)))
    except ArgumentError as error:
        known = f"; known are {', '.join(item.name for item in fields(Method))}, base" if "Option" in str(error) else ""
        raise UserError(f"{place}: {' '.join(str(error).split())}{known}") from None
    if method.name in methods:
        raise UserError(f"{place}: there is a method of that name already; a name must be new")
    _check_members(place, method, methods)
    methods[method.name] = method


def _check_members(place: str, method: Method, methods: dict[str, Method]) -> None:
    if method.baseline and method.baseline not in BASELINES:
        raise UserError(f"{place}: there is no baseline '{method.baseline}'; choose one of {', '.join(BASELINES)}")
    kinds = [methods[name].kind if name in methods else "" for name in method.members]
    if method.ensemble and kinds != ["network"]:
        raise UserError(f"{place}: ensemble takes the name of one earlier method that `butppg fit` trains")
    several = method.rank_mean or method.choose
    if several and (len(kinds) < 2 or {"", *COMBINED} & set(kinds)):
        raise UserError(f"{place}: {method.kind} takes the names of two or more earlier methods, none of them combined")


_ROW = ArgumentParser(exit_on_error=False)
_ROW.add_class_arguments(Method)
