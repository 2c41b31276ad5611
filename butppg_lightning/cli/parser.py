"""Argument parsers that end in one line: key, value, reason, nearest key. No usage dump."""

from __future__ import annotations

import difflib
import re
from typing import Any, NoReturn

import jsonargparse

from butppg_lightning.errors import UserError

_SWITCHES = ("--overwrite", "--allow_overlap", "--data.allow_overlap", "--stages.restore_best")


class ManPage(jsonargparse.DefaultHelpFormatter):
    """Keeps the paragraphs of a description, and the lines of an example (they begin with two spaces)."""

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
        return re.sub(r"<class\s+'(?:[\w.]+\.)?(\w+)'>", r"\1", super().format_help(*formatter))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the parser's complaint as one line.

        Raises:
            UserError: Always.
        """
        raise UserError(one_line(message, self._known_options())) from ex

    def _known_options(self) -> list[str]:
        return [option for action in self._actions for option in action.option_strings if option.startswith("--")]


def command_parser(command: str, description: str, example: str) -> OneLineErrors:
    """Return the parser of a plain command (not one of the Lightning ones).

    Args:
        command: The words after ``butppg``, for example ``prepare splits``.
        description: One or two sentences.
        example: A command line that works.
    """
    text = f"{description}\n\nExample:\n  {example}"
    return OneLineErrors(prog=f"butppg {command}", description=text, allow_abbrev=False)


def normalise_dashes(arguments: list[str]) -> list[str]:
    """Let dashes stand for underscores in option names, as the guide's commands write them.

    Examples:
        >>> normalise_dashes(["--output-dir", "my-run", "--data.batch-size=4"])
        ['--output_dir', 'my-run', '--data.batch_size=4']
        >>> normalise_dashes(["--overwrite", "--seed", "1"])
        ['--overwrite', 'true', '--seed', '1']
    """
    normal: list[str] = []
    for word in arguments:
        _complete_switch(normal, word)
        name, equals, value = word.partition("=")
        normal.append("--" + name[2:].replace("-", "_") + equals + value if name.startswith("--") else word)
    _complete_switch(normal, None)
    return normal


def _complete_switch(words: list[str], following: str | None) -> None:
    # a switch needs no value: --overwrite is --overwrite
    if words and words[-1] in _SWITCHES and (following is None or following.startswith("-")):
        words.append("true")


def one_line(message: str, known: list[str]) -> str:
    """Reduce a complaint to key, value, reason and nearest key.

    Args:
        message: What the parser says, in any number of lines.
        known: The options there are.
    """
    text = re.sub(r"\s+", " ", message).strip()
    text = re.sub(r"^Group '([\w.]+)' does not accept option '([\w.]+)'$", r"Option '\1.\2' is not accepted", text)
    unknown = re.search(r"[Uu]nrecognized arguments: --([\w.]+)|^Option '([\w.]+)' is not accepted$", text)
    if unknown:
        name = "--" + next(group for group in unknown.groups() if group)
        return f"unknown option {name}{_nearest(name, known)}"
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
        told = [reason for reason in reasons if not reason.startswith("Expected a ")]
        types = dict.fromkeys(re.split(r"[.:] ", reason.removeprefix("Expected a "))[0] for reason in reasons)
        text = f"{key}: {told[0]}" if told else f"{key}: expected {' or '.join(types)}, got {value}"
        text = text.removeprefix(": ")  # on building an object the key is not told
    return re.sub(r"Expected an? (?=\S)", "expected ", text).replace(". Got value:", ", got")


def _nearest(name: str, known: list[str]) -> str:
    # the last word decides when a group is right or forgotten: --batch_size means --data.batch_size
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    same_last = [option for option in known if option.rsplit(".", 1)[-1] == name.removeprefix("--").rsplit(".", 1)[-1]]
    best = (same_last or near)[:1]
    return f"; the nearest is {best[0]}" if best else "; `--help` lists them all"


def parse(parser: OneLineErrors, arguments: list[str]) -> Any:
    """Parse the words after the command's name.

    Raises:
        UserError: If they do not fit.
    """
    return parser.parse_args(normalise_dashes(arguments))
