"""`butppg completion`: a script that lets the shell complete commands and options."""

from __future__ import annotations

import io
import re
import shlex
from contextlib import redirect_stderr, redirect_stdout

from butppg_lightning.cli.parser import command_parser, parse
from butppg_lightning.console import say
from butppg_lightning.errors import UserError

SHELLS = ("bash", "zsh")

_OPTION = re.compile(r"^  (?:-\w(?: \w+)?, )?(--[\w.]+)(?: (\{[^}]*\})?)?", re.MULTILINE)
_WHAT = re.compile(r"^  ([a-z][\w-]+)  ", re.MULTILINE)  # the table of `butppg prepare --help`

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


def run(arguments: list[str]) -> None:
    """Print the completion script of a shell."""
    parser = command_parser(
        "completion",
        "Print a script that completes commands, options and their choices on TAB. It is static: nothing of the "
        "package is loaded when TAB is pressed; print it again after an update. bash: "
        "`butppg completion bash > ~/.local/share/bash-completion/completions/butppg` (or source the file in "
        "~/.bashrc); zsh: `butppg completion zsh > ~/.butppg.zsh`, and `source ~/.butppg.zsh` in ~/.zshrc.",
        "butppg completion bash > ~/.butppg.bash && source ~/.butppg.bash",
    )
    parser.add_argument("shell", type=str, help="bash or zsh.")
    shell = parse(parser, arguments).shell
    if shell not in SHELLS:
        raise UserError(f"no completion for the shell '{shell}'; choose {' or '.join(SHELLS)}")
    print(script(shell), end="")


def script(shell: str) -> str:
    """Return the script, made from what every command's ``--help`` says.

    Args:
        shell: bash or zsh.
    """
    from butppg_lightning.cli import COMMANDS
    from butppg_lightning.cli.configs import shipped_configs

    whats, options, values = [], [], []
    for name in COMMANDS:
        text = _help_of(name)
        if further := _WHAT.findall(text):
            whats.append(f'        {name}) words="{" ".join(further)}"; command="{name} ${{COMP_WORDS[2]}}" ;;\n')
        for path, help_text in [(f"{name} {what}", _help_of(name, what)) for what in further] or [(name, text)]:
            found = dict(_OPTION.findall(help_text))
            options.append(
                f'        "{path}") [ "$COMP_CWORD" -gt {len(path.split())} ] && words="{" ".join(found)}" ;;\n'
            )
            for option, choices in found.items():
                if choices and "..." not in choices:
                    told = " ".join(re.sub(r"\s", "", choices).strip("{}").split(","))
                    values.append(f'        "{path} {option}") values={shlex.quote(told)} ;;\n')
    folder = shipped_configs()
    configs = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.yaml"))
    prelude = "autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else ""
    return _SCRIPT.format(
        shell=shell,
        prelude=prelude,
        commands=" ".join(COMMANDS),
        whats="".join(whats),
        options="".join(options),
        values="".join(values),
        configs=" ".join(configs),
    )


def _help_of(*words: str) -> str:
    from butppg_lightning.cli import main

    said, complaint = io.StringIO(), io.StringIO()
    with redirect_stdout(said), redirect_stderr(complaint):
        code = main([*words, "--help"])
    if code:  # an extra that is not installed: its command completes to files only
        say(f"no options of `butppg {' '.join(words)}`: {complaint.getvalue().strip()}")
    return said.getvalue()
