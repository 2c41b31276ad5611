"""Command lines from typed functions, and parsers whose errors are one line: key, value, reason, nearest key."""

from __future__ import annotations

import argparse
import difflib
import gc
import inspect
import re
import shutil
import typing
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NoReturn

import docstring_parser
import jsonargparse

from butppg_lightning.cli.paths import expand_paths
from butppg_lightning.errors import UserError
from butppg_lightning.files import claim

if TYPE_CHECKING:
    from collections.abc import Callable, Container


_WIDTH = 120


class ManPage(jsonargparse.DefaultHelpFormatter):
    """Keeps the paragraphs of a description, and the lines of an example (they begin with two spaces)."""

    def __init__(self, prog: str, **options: Any) -> None:
        wide = min(shutil.get_terminal_size((_WIDTH, 0)).columns, _WIDTH)
        super().__init__(prog, **{"width": wide, "max_help_position": 30, **options})  # type: ignore[no-untyped-call]

    def _format_action_invocation(self, action: argparse.Action) -> str:
        # jsonargparse offers a second spelling of every list, with a plus, which appends
        return re.sub(r", --[\w.]+\+( \S+)?", "", super()._format_action_invocation(action))

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return "VALUE"  # the option's name in capitals would only take a line

    def _expand_help(self, action: argparse.Action) -> str:
        text = re.sub(r", known subclasses: [^)]*", "", super()._expand_help(action))
        return re.sub(r"\(type: (?:Literal\[[^]]*\]|bool), ", "(", text)  # the choices stand behind the option

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        lines = (line if line.startswith("  ") else fill(line, width, indent) for line in text.split("\n"))
        return "\n".join(lines)


class OneLineErrors(jsonargparse.ArgumentParser):
    """A jsonargparse parser whose errors are raised as :class:`UserError`, reduced to what the user needs."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"formatter_class": ManPage, **kwargs})

    def format_help(self, *formatter: Any) -> str:
        """Return the help, with types in plain words."""
        self._accept_switches()
        return re.sub(r"<class\s+'(?:[\w.]+\.)?(\w+)'>", r"\1", super().format_help(*formatter))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the parser's complaint as one line."""
        raise UserError(one_line(message, self.known_options())) from ex

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """Parse, and expand paths; a switch (an option of type bool) needs no value: ``--overwrite`` is true."""
        self._accept_switches()
        return expand_paths(super().parse_args(*args, **kwargs), args[0] if args else ())

    def _accept_switches(self) -> None:
        for action in self._actions:
            if getattr(action, "_typehint", None) is bool and action.option_strings:
                action.nargs, action.const = "?", True

    def known_options(self) -> list[str]:
        """Return every ``--option``."""
        return [option for action in self._actions for option in action.option_strings if option.startswith("--")]


def underscored(word: str) -> str:
    """Return an option with underscores in its name, where dashes are accepted as well.

    Examples:
        >>> underscored("--data.batch-size=a-b"), underscored("my-run")
        ('--data.batch_size=a-b', 'my-run')
    """
    name, equals, value = word.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value if name.startswith("--") else word


def run_function(command: str, function: Callable[..., None], arguments: list[str], folder: str = "") -> None:
    """Call the typed function that is a command with what the user typed after it; it has its ``folder`` for itself."""
    gc.set_threshold(100_000)  # what imports make stays: to search it for garbage takes a tenth of a short command
    lists = {f"--{name}" for name in _list_options(function)}
    words = _joined_repeats([underscored(word) for word in arguments], lists)
    options = function_parser(command, function).parse_args(words).as_dict()
    if class_path := options.pop("encoder_class", None):
        from butppg_lightning.models.architecture import trust_encoder

        trust_encoder(class_path)
    with claim(options[folder]) if folder else nullcontext():
        function(**options)


def function_parser(command: str, function: Callable[..., None]) -> OneLineErrors:
    """Return the parser of a command that is a typed function with a Google docstring.

    Its keyword-only parameters are options (``--name``, required without a default), the others positional
    arguments. ``Literal`` types are choices, ``bool`` is a switch, and ``list[X]`` takes any number of values after
    one option. The help comes from the docstring: what stands before ``Args:``, those, and ``Example:``.
    """
    doc = docstring_parser.parse(inspect.getdoc(function) or "", docstring_parser.DocstringStyle.GOOGLE)
    parser = command_parser(
        command, doc.description or "", "\n".join(found.description or "" for found in doc.examples)
    )
    lists = _list_options(function)
    parser.add_function_arguments(function, as_group=False, as_positional=True, skip=set(lists))
    helps = {param.arg_name: param.description for param in doc.params}
    for name, item in lists.items():
        default = inspect.signature(function).parameters[name].default
        needed: dict[str, Any] = {"required": True} if default is inspect.Parameter.empty else {"default": default}
        parser.add_argument(f"--{name}", type=item, nargs="+", help=helps.get(name), **needed)
    if "checkpoint" in helps:
        parser.add_argument(
            "--model.encoder.class_path",
            dest="encoder_class",
            type=str,
            help="The checkpoint's encoder class, where it is your own: naming it lets it be imported.",
        )
    return parser


def _list_options(function: Callable[..., None]) -> dict[str, Any]:
    return {name: item for name, hint in typing.get_type_hints(function).items() if (item := _item_of(hint))}


def _joined_repeats(words: list[str], lists: Container[str]) -> list[str]:
    """Put the values of a list option that is given several times behind one, where argparse would keep the last.

    Examples:
        >>> _joined_repeats(["--a", "1", "--b", "2", "--a=3"], {"--a"})
        ['--b', '2', '--a', '1', '3']
    """
    groups: list[list[str]] = [[]]
    for word in words:
        name, equals, value = word.partition("=")
        if name in lists:
            group = next((known for known in groups if known[:1] == [name]), [name])
            if group in groups:
                groups.remove(group)
            groups.append(group)  # last, for the values that follow
            group += [value] if equals else []
        elif word.startswith("--"):
            groups.append([word])
        else:
            groups[-1].append(word)
    return [word for group in groups for word in group]


def _item_of(hint: Any) -> Any:
    """Return ``X`` of ``list[X]`` or ``list[X] | None``, else None."""
    if typing.get_origin(hint) is list:
        return typing.get_args(hint)[0]
    return next((found for part in typing.get_args(hint) if (found := _item_of(part))), None)


def command_parser(command: str, description: str, example: str) -> OneLineErrors:
    """Return an empty parser with a description, and a command line that works as an example."""
    text = f"{description}\n\nExample:\n  {example}"
    return OneLineErrors(prog=f"butppg {command}", description=text, allow_abbrev=False)


def one_line(message: str, known: list[str]) -> str:
    """Reduce a parser's complaint, in any number of lines, to key, value, reason and nearest of the known options."""
    text = re.sub(r"\s+", " ", message).strip()
    text = re.sub(r"^Group '([\w.]+)' does not accept option '([\w.]+)'$", r"Option '\1.\2' is not accepted", text)
    unknown = re.search(r"[Uu]nrecognized arguments: --([\w.-]+)|^Option '([\w.]+)' is not accepted$", text)
    if unknown:
        name = underscored("--" + next(group for group in unknown.groups() if group))
        return f"unknown option {name}{nearest_option(name, known)}"
    if missing := re.fullmatch(r"the following arguments are required: (.*)", text):
        names = (f"--{name}" if f"--{name}" in known else name for name in missing[1].split(", "))
        return f"missing: {', '.join(names)}; `--help` says what it is"
    return _in_plain_words(re.sub(r"^Parser key \"([\w.]+)\":", r"--\1:", text))


def _in_plain_words(text: str) -> str:
    """Reduce what jsonargparse says of types to what was expected and what was given.

    Examples:
        >>> _in_plain_words("--model.lr: Expected a <class 'float'>. Got value: fast")
        '--model.lr: expected float, got fast'
    """
    text = re.sub(r"<class '(?:[\w.]+\.)?(\w+)'>", r"\1", text)
    text = re.sub(r"typing\.Literal\[(.*?)\]", lambda found: f"one of {found[1]}".replace("'", ""), text)
    text = re.sub(r"NestedArg\(key='([\w.]+)', val='?(.*?)'?\)$", r"\1: \2", text)
    head, union, rest = text.partition("Does not validate against any of the Union subtypes")
    if union:
        key = head.partition(": ")[0]
        value = rest.rpartition("Given value: ")[2]
        errors = rest.partition("Errors: ")[2].partition(" Given value type: ")[0]
        errors = re.sub(r"Does not validate against any of the Union subtypes.*?Errors: - ", "", f" {errors}")
        reasons = [reason for reason in errors.split(" - ") if reason.strip() and not reason.endswith("NoneType")]
        reported = [reason for reason in reasons if not reason.startswith("Expected a ")]
        types = dict.fromkeys(re.split(r"[.:] ", reason.removeprefix("Expected a "))[0] for reason in reasons)
        text = f"{key}: {reported[0]}" if reported else f"{key}: expected {' or '.join(types)}, got {value}"
        text = text.removeprefix(": ")  # on building an object the key is not named
    return re.sub(r"Expected an? (?=\S)", "expected ", text).replace(". Got value:", ", got")


def nearest_option(name: str, known: list[str]) -> str:
    """Return the end of a message about an unknown option: which one may have been meant."""
    # the last word decides when a group is right or forgotten: --batch_size means --data.batch_size
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    same_last = [option for option in known if option.rsplit(".", 1)[-1] == name.removeprefix("--").rsplit(".", 1)[-1]]
    best = (same_last or near)[:1]
    return f"; the nearest is {best[0]}" if best else "; `--help` lists them all"
