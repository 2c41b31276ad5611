"""What is compared: methods and rows of an ablation, each one line of a YAML file."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import yaml

from butppg_lightning.errors import UserError
from butppg_lightning.window import channel_names

if TYPE_CHECKING:
    from pathlib import Path

Kind = Literal["network", "rival", "indices", "ensemble", "rank_mean"]
Encoder = Literal["none", "pretrained", "adapted"]
ENCODERS: tuple[Encoder, ...] = ("none", "pretrained", "adapted")
TABLES = ("methods", "channels", "ablation")
_KINDS: dict[str, Kind] = {name: name for name in get_args(Kind)[1:]}
_NETWORK = ("base", "fit", "encoder", "pretrain", "adapt", "with_pretraining", "channels", "soft_labels")
_COMMON = ("name", "title", "group", "table", "seeds", "external", "drawn")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
Words = tuple[str, ...]


@dataclass(frozen=True)
class Method:
    """A method of the comparison.

    Attributes:
        name: Its key, also a folder's name.
        title: What the tables call it.
        kind: ``network`` (trained by `butppg fit`), ``rival`` (of :mod:`butppg_lightning.evaluation.baselines`),
            ``indices`` (logistic regression on groups of signal indices), ``ensemble`` (mean logit over the seeds of a
            network) or ``rank_mean`` (of its members, within each person).
        fit: Words after ``butppg fit``.
        encoder: What a network starts from: ``none``, the ``pretrained`` encoder, or the ``adapted`` one, whose
            self-supervision went on with the fold's training people.
        pretrain: Words after ``butppg pretrain`` for the pretraining.
        adapt: Words after ``butppg pretrain`` for its continuation.
        with_pretraining: Whether the continuation also sees the pretraining's windows.
        channels: The only ones that are there, for training and for scoring; None for all.
        soft_labels: Array of the windows' file with the share of each window that is spoiled, to train on 1 less it;
            empty for the labels.
        members: The rival's name, the groups of indices, or the methods that are combined.
        seeds: How many seeds are of use; None for all that are asked for.
        table: Which table it stands in.
        group: Heading in the ablation's table.
        external: Whether it is also scored on the external records.
        drawn: Whether it is in the pictures of curves.
    """

    name: str
    title: str
    kind: Kind
    fit: Words = ()
    encoder: Encoder = "adapted"
    pretrain: Words = ()
    adapt: Words = ()
    with_pretraining: bool = False
    channels: Words | None = None
    soft_labels: str = ""
    members: Words = ()
    seeds: int | None = None
    table: str = "methods"
    group: str = ""
    external: bool = False
    drawn: bool = False


@dataclass(frozen=True)
class Definition:
    """All methods of a file.

    Attributes:
        path: The file.
        methods: By name, in the file's order.
        reference: Name of the network that the others are compared with.
    """

    path: Path
    methods: dict[str, Method]
    reference: str

    def chosen(self, names: list[str] | None) -> dict[str, Method]:
        """Return the named methods (None for all), the reference, and whatever they are combined from.

        Raises:
            UserError: If a name is unknown.
        """
        wanted = [self.reference, *(self.methods if names is None else names)]
        for name in wanted:
            if name not in self.methods:
                raise UserError(f"--methods names '{name}'; {self.path} has {', '.join(self.methods)}")
            if self.methods[name].kind in ("ensemble", "rank_mean"):
                wanted += [member for member in self.methods[name].members if member not in wanted]
        return {name: method for name, method in self.methods.items() if name in wanted}


def read_definition(path: Path) -> Definition:
    """Read the file of the methods.

    Args:
        path: A YAML file with ``pretrain`` and ``adapt`` (words of the encoder's training), ``with_pretraining``,
            ``reference`` and ``methods``; see ``configs/results/methods.yaml``.

    Raises:
        UserError: If it cannot be read, or a method cannot be understood.
    """
    content = _read(path, ("pretrain", "adapt", "with_pretraining", "reference", "methods"))
    start = Method(
        name="",
        title="",
        kind="network",
        pretrain=_words(path, "pretrain", content.get("pretrain", "")),
        adapt=_words(path, "adapt", content.get("adapt", "")),
        with_pretraining=bool(content.get("with_pretraining", False)),
    )
    methods: dict[str, Method] = {}
    for row in _rows(path, content.get("methods")):
        _add(path, methods, row, start)
    reference = str(content.get("reference", next(iter(methods))))
    if reference not in methods or methods[reference].kind != "network":
        raise UserError(f"{path}: reference '{reference}' is no method that `butppg fit` trains; name one of them")
    return Definition(path, methods, reference)


def read_ablation(path: Path, definition: Definition) -> Definition:
    """Read the rows of an ablation: methods whose ``base`` is the reference unless they name another one.

    Args:
        path: A YAML file with ``rows``; see ``configs/results/ablation.yaml``.
        definition: The methods they vary.

    Returns:
        The reference first, then the rows. Rows may be combined from the definition's methods only.

    Raises:
        UserError: If it cannot be read, or a row cannot be understood.
    """
    reference = definition.methods[definition.reference]
    known = dict(definition.methods)
    for row in _rows(path, _read(path, ("rows",)).get("rows")):
        _add(path, known, {"table": "ablation", **row}, reference)
    rows = {name: method for name, method in known.items() if name not in definition.methods}
    combined = {member for method in rows.values() for member in method.members if member in definition.methods}
    kept = {name: method for name, method in definition.methods.items() if name in {*combined, reference.name}}
    return Definition(path, {reference.name: reference} | kept | rows, definition.reference)


def _read(path: Path, known: tuple[str, ...]) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text: {getattr(error, 'strerror', None) or error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no keys; expected {', '.join(known)}")
    unknown = [str(key) for key in content if key not in known]
    if unknown:
        raise UserError(f"{path}: '{unknown[0]}' is unknown; known are {', '.join(known)}")
    return content


def _rows(path: Path, rows: Any) -> list[dict[str, Any]]:
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: expected a list of rows such as - {{name: wide, fit: --model.lr 1e-3}}")
    return rows


def _add(path: Path, methods: dict[str, Method], row: dict[str, Any], base: Method) -> None:
    name = str(row.get("name", ""))
    if not _NAME.fullmatch(name) or name in methods:
        raise UserError(f"{path}: name '{name}' must be new, of letters, digits and _ . + - (it names a folder)")
    place = f"{path}, {name}"
    kinds = [key for key in _KINDS if key in row]
    if len(kinds) > 1:
        raise UserError(f"{place}: {kinds[0]} and {kinds[1]} exclude each other")
    known = (*_COMMON, *(kinds or _NETWORK))
    if unknown := [str(key) for key in row if key not in known]:
        raise UserError(f"{place}: '{unknown[0]}' is unknown here; known are {', '.join(known)}")
    seeds = row.get("seeds")
    if seeds is not None and (not isinstance(seeds, int) or isinstance(seeds, bool) or seeds < 1):
        raise UserError(f"{place}: seeds is {seeds}; expected a number of at least 1, or nothing for all")
    if row.get("table", "methods") not in TABLES:
        raise UserError(f"{place}: table '{row['table']}' is unknown; choose {', '.join(TABLES)}")
    told: dict[str, Any] = {
        "name": name,
        "title": str(row.get("title", name)),
        "seeds": seeds,
        "table": str(row.get("table", "methods")),
        "group": str(row.get("group", "")),
        "external": bool(row.get("external", False)),
        "drawn": bool(row.get("drawn", False)),
    }
    if kinds:
        methods[name] = Method(kind=_KINDS[kinds[0]], members=_members(place, kinds[0], row, methods), **told)
    else:
        methods[name] = Method(kind="network", **_network(place, row, methods, base), **told)


def _network(place: str, row: dict[str, Any], methods: dict[str, Method], base: Method) -> dict[str, Any]:
    """Return what a network has of its own, and of the method it varies."""
    if "base" in row:
        found = methods.get(str(row["base"]))
        if found is None or found.kind != "network":
            raise UserError(f"{place}: base '{row['base']}' is no earlier method that `butppg fit` trains")
        base = found
    encoder = str(row.get("encoder", base.encoder))
    if encoder not in ENCODERS:
        raise UserError(f"{place}: encoder '{encoder}' is unknown; choose {', '.join(ENCODERS)}")
    more = {key: getattr(base, key) + _words(place, key, row.get(key, "")) for key in ("fit", "pretrain", "adapt")}
    mixed, channels = bool(row.get("with_pretraining", base.with_pretraining)), base.channels
    if "channels" in row:
        channels = channel_names(row["channels"] if isinstance(row["channels"], list) else [row["channels"]])
    soft = str(row.get("soft_labels", base.soft_labels))
    return {**more, "encoder": encoder, "with_pretraining": mixed, "channels": channels, "soft_labels": soft}


def _members(place: str, kind: str, row: dict[str, Any], methods: dict[str, Method]) -> Words:
    value = row[kind]
    names = tuple(str(name) for name in (value if isinstance(value, list) else [value]))
    if kind == "ensemble" and (len(names) != 1 or methods.get(names[0]) is None or methods[names[0]].kind != "network"):
        raise UserError(f"{place}: ensemble takes the name of one earlier method that `butppg fit` trains")
    simple = {name for name, method in methods.items() if method.kind in ("network", "rival", "indices")}
    if kind == "rank_mean" and not (len(names) > 1 and set(names) <= simple):
        raise UserError(f"{place}: rank_mean takes the names of two or more earlier methods, none of them combined")
    if kind == "rival":
        from butppg_lightning.evaluation.baselines import RIVALS

        if len(names) != 1 or names[0] not in RIVALS:
            raise UserError(f"{place}: there is no rival '{', '.join(names)}'; choose one of {', '.join(RIVALS)}")
    return names


def _words(place: Path | str, key: str, value: Any) -> Words:
    if isinstance(value, list):
        return tuple(str(word) for word in value)
    try:
        return tuple(shlex.split(str(value or "")))
    except ValueError as error:
        raise UserError(f"{place}: {key} cannot be parted into words: {error}") from None
