"""Completion scripts of four shells, from what can follow each command."""

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """What can follow a command.

    words: the command, with its first argument where that decides about the flags ("train", "text-masked").
    flags: each flag with the words that it takes, none where these are not known. values: words that may stand first.
    takes_path: whether a run folder or a file may.
    """

    words: tuple[str, ...]
    what: str
    flags: tuple[tuple[str, tuple[str, ...]], ...]
    values: tuple[str, ...]
    takes_path: bool


def bash(entries: Sequence[Entry]) -> str:
    """A function that chooses by the words before, and offers run folders (those with a run.yaml) before files."""
    return f"""\
# bash completion of seedfast
{_RUNS}
_seedfast() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" offered="" paths=""
    case "${{COMP_WORDS[1]}} ${{COMP_WORDS[2]}}" in
{_cases(entries, depth=2)}
    *) case "${{COMP_WORDS[1]}}" in
{_cases(entries, depth=1)}
        esac ;;
    esac
    [ "$COMP_CWORD" -eq 1 ] && offered={shlex.quote(" ".join(_commands(entries)))} && paths=""
    case "$before" in --out|--judge) paths=runs; offered="" ;; esac
    COMPREPLY=($(compgen -W "$offered" -- "$word"))
    if [ -n "$paths" ] && [ "${{word#-}}" = "$word" ]; then
        local IFS=$'\\n'
        COMPREPLY+=($(_seedfast_runs "$word"))
        [ ${{#COMPREPLY[@]}} -eq 0 ] && COMPREPLY=($(compgen -f -- "$word"))
    fi
    return 0
}}
complete -o filenames -o bashdefault -F _seedfast seedfast
"""


def zsh(entries: Sequence[Entry]) -> str:
    """The script of bash, which zsh runs through its own emulation."""
    return "#compdef seedfast\n# zsh completion of seedfast\nautoload -U +X bashcompinit && bashcompinit\n" + bash(
        entries
    )


_RUNS = """\
_seedfast_runs() {
    local file
    for file in "$1"*/run.yaml "$1"*/*/run.yaml runs/"$1"*/run.yaml; do
        [ -e "$file" ] && printf '%s\\n' "${file%/run.yaml}"
    done 2>/dev/null | sort -u
}"""


def _cases(entries: Sequence[Entry], depth: int) -> str:
    """The branches of entries of this number of words: what is offered after a flag with known words, and else."""
    lines = []
    for entry in entries:
        if len(entry.words) != depth:
            continue
        known = " ".join(flag for flag, _ in entry.flags)
        lines.append(f"    {shlex.quote(' '.join(entry.words))})")
        lines.append(f"        offered={shlex.quote(' '.join(filter(None, (known, *entry.values))))}")
        lines.append(f"        paths={'runs' if entry.takes_path else ''}")
        branches = [
            f"        {flag}) offered={shlex.quote(' '.join(values))}; paths= ;;"
            for flag, values in entry.flags
            if values
        ]
        if branches:
            lines += ['        case "$before" in', *branches, "        esac"]
        if any(not values for _, values in entry.flags):
            bare = "|".join(flag for flag, values in entry.flags if not values)
            lines.append(f'        case "$before" in {bare}) offered=""; paths=files ;; esac')
        lines.append("        ;;")
    return "\n".join(lines)


def fish(entries: Sequence[Entry]) -> str:
    """One line for each word that can follow a command."""
    return "\n".join(["# fish completion of seedfast", *_fish_lines(entries)]) + "\n"


def _fish_lines(entries: Sequence[Entry]) -> Iterator[str]:
    yield from _FISH_FUNCTIONS
    for entry in entries:
        where = f"-n '__seedfast_at {' '.join(entry.words)}'"
        if len(entry.words) == 1:
            command = entry.words[0]
            yield f"complete -c seedfast -f -n __fish_use_subcommand -a {command} -d {_fish_quoted(entry.what)}"
        if entry.values:
            yield f"complete -c seedfast -f {where} -a {_fish_quoted(' '.join(entry.values))}"
        if entry.takes_path:
            yield f"complete -c seedfast {where} -a '(__seedfast_runs)'"
        for flag, values in entry.flags:
            takes = f" -x -a {_fish_quoted(' '.join(values))}" if values else " -r"
            runs = " -a '(__seedfast_runs)'" if flag in ("--out", "--judge") else ""
            yield f"complete -c seedfast {where} -l {flag.removeprefix('--')}{takes}{runs}"


_FISH_FUNCTIONS = (
    "function __seedfast_runs",
    "    set -l word (commandline -ct)",
    "    for file in $word*/run.yaml $word*/*/run.yaml runs/*/run.yaml",
    "        string replace /run.yaml '' $file",
    "    end",
    "end",
    "function __seedfast_at",
    "    set -l words (commandline -opc)",
    '    test "$words[2..3]" = "$argv"; or test "$words[2]" = "$argv"',
    "end",
)
"""The run folders that can follow, and whether the words before are a command."""


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def tcsh(entries: Sequence[Entry]) -> str:
    """The commands, the first words of each, and every flag: tcsh cannot tell the flags of commands apart."""
    flags = sorted({flag.removeprefix("--") for entry in entries for flag, _ in entry.flags})
    first = [f"'n/{e.words[0]}/({' '.join(e.values)})/'" for e in entries if len(e.words) == 1 and e.values]
    commands = f"'p/1/({' '.join(_commands(entries))})/'"
    parts = [commands, *first, f"'c/--/({' '.join(flags)})/'"]
    return "# tcsh completion of seedfast\ncomplete seedfast \\\n    " + " \\\n    ".join(parts) + "\n"


def _commands(entries: Sequence[Entry]) -> list[str]:
    return list(dict.fromkeys(entry.words[0] for entry in entries))


SCRIPTS: dict[str, Callable[[Sequence[Entry]], str]] = {"bash": bash, "zsh": zsh, "fish": fish, "tcsh": tcsh}
"""The script of each shell."""
