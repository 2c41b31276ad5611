"""`butppg completion`: a script that lets the shell complete commands and options."""

from __future__ import annotations

import io
import re
import shlex
from contextlib import redirect_stderr, redirect_stdout
from typing import Literal

from butppg_lightning.console import say

_OPTION = re.compile(r"^  (?:-\w(?: \w+)?, )?(--[\w.]+)(?: \[?(\{[^}]*\})?)?", re.MULTILINE)

# bash 3.2 (macOS) has neither associative arrays nor bash-completion; zsh runs the same function by bashcompinit
_SCRIPT = """\
# Completion of butppg in {shell}, written by: butppg completion {shell}
{prelude}_butppg() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}" command="${{COMP_WORDS[1]}}"
    local words="" values=""
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "{commands}" -- "$current"))
        return
    fi
    case "$command" in
{whats}    esac
    case "$command" in
{options}    esac
    case "$command $previous" in
{values}        *" --config") values="{configs}" ;;
    esac
    if [ -n "$values" ]; then
        COMPREPLY=($(compgen -W "$values" -- "$current") $(compgen -f -- "$current"))
    elif [ "${{current#-}}" != "$current" ] || {{ [ -n "$words" ] && [ "$COMP_CWORD" -eq 2 ]; }}; then
        COMPREPLY=($(compgen -W "$words" -- "$current"))
    else
        COMPREPLY=($(compgen -f -- "$current"))
    fi
}}
complete -o filenames -F _butppg butppg
"""


def completion(shell: Literal["bash", "zsh"]) -> None:
    """Print a script that completes commands, options and their choices on TAB.

    It is static: nothing of the package is loaded when TAB is pressed; print it again after an update. bash: `butppg
    completion bash > ~/.local/share/bash-completion/completions/butppg` (or source the file in ~/.bashrc); zsh:
    `butppg completion zsh > ~/.butppg.zsh`, and `source ~/.butppg.zsh` in ~/.zshrc.

    Args:
        shell: bash or zsh.

    Example:
        butppg completion bash > ~/.butppg.bash && source ~/.butppg.bash
    """
    print(script(shell), end="")


def script(shell: str) -> str:
    """Return the script, made from what every command's ``--help`` says.

    jsonargparse's own (shtab) is for one parser, which would have to import every command; argcomplete would import
    torch at every TAB.
    """
    from butppg_lightning.cli import COMMANDS
    from butppg_lightning.cli.configs import names_of_configs

    groups: dict[str, list[str]] = {}
    options, values = [], []
    for name, command in COMMANDS.items():
        first, _, further = name.partition(" ")
        groups.setdefault(first, []).extend([further] if further else [])
        text = _help_of(name) + (_help_of(name, "--help.trainer") if command.kind == "training" else "")
        found = dict(_OPTION.findall(text))
        options.append(f'        "{name}") [ "$COMP_CWORD" -gt {len(name.split())} ] && words="{" ".join(found)}" ;;\n')
        for option, choices in found.items():
            if choices and "..." not in choices:
                offered = re.sub(r"\s", "", choices).strip("{}").replace(",", " ")
                values.append(f'        "{name} {option}") values={shlex.quote(offered)} ;;\n')
    whats = [
        f'        {first}) words="{" ".join(further)}"; command="{first} ${{COMP_WORDS[2]}}" ;;\n'
        for first, further in groups.items()
        if further
    ]
    return _SCRIPT.format(
        shell=shell,
        prelude="autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else "",
        commands=" ".join(groups),
        whats="".join(whats),
        options="".join(options),
        values="".join(values),
        configs=" ".join(names_of_configs()),
    )


def _help_of(command: str, option: str = "--help") -> str:
    from butppg_lightning.cli import main

    printed, complaint = io.StringIO(), io.StringIO()
    with redirect_stdout(printed), redirect_stderr(complaint):
        code = main([*command.split(), option])
    if code:  # an extra that is not installed: its command completes to files only
        say(f"no options of `butppg {command}`: {complaint.getvalue().strip()}")
    return printed.getvalue()
