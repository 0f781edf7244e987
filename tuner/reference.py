"""The command reference, from the commands: `python -m tuner.reference > tuner/COMMANDS.md`."""

import inspect
from collections.abc import Iterator
from typing import Any

import typer

from tuner.cli import app

INTRODUCTION = """# Every command

Written by `python -m tuner.reference > tuner/COMMANDS.md`; a test compares. `-q`
before or after a command leaves results and errors only; `NO_COLOR` is heeded; results are on
stdout, talk on stderr.

| exit code | means |
| --- | --- |
| 0 | done |
| 1 | some trials or fits failed |
| 2 | your input; each fault on a line with place, value and remedy |
| 3 | refused: the cap or the budget does not allow it |
| 130 | interrupted; what was finished is kept |
"""


def reference() -> str:
    """The whole reference as Markdown."""
    return INTRODUCTION + "".join(_group(typer.main.get_command(app), "isoflop"))


def _group(group: Any, path: str) -> Iterator[str]:
    for name, command in group.commands.items():
        yield _command(command, f"{path} {name}")
        if hasattr(command, "commands"):
            yield from _group(command, f"{path} {name}")


def _command(command: Any, path: str) -> str:
    told = inspect.cleandoc(command.help or "").split("\n\n")
    words = [part for part in told if ": isoflop " not in part]
    examples = [part for part in told if ": isoflop " in part]
    lines = [f"\n## {path}\n", "\n\n".join(words) + "\n"]
    if examples:
        code = [" ".join(example.split()).partition(": ")[::2] for example in examples]
        shown = [f"{line}" if said == "Example" else f"# {said}\n{line}" for said, line in code]
        lines.append("```sh\n" + "\n".join(shown) + "\n```\n")
    rows = [_row(param) for param in command.params if param.name != "help"]
    if rows:
        lines += ["| | |\n| --- | --- |", *rows, ""]
    return "\n".join(lines)


def _row(param: Any) -> str:
    argument = param.param_type_name == "argument"
    name = param.metavar if argument and param.metavar else ", ".join(param.opts)
    default = "" if param.default in {None, False} or callable(param.default) else param.default
    more = f" Default {default}." if not argument and default not in {"", ()} else ""
    required = " Required." if param.required and not argument else ""
    words = (param.help or "").replace("|", "\\|")
    return f"| `{name}` | {words}{required}{more} |"


if __name__ == "__main__":
    print(reference(), end="")
