"""What goes wrong in a person's hands, and what is said of it: one line each, and an exit code."""

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import typer

OK, INCOMPLETE, YOUR_INPUT, REFUSED, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes."""


_USAGE = typer.BadParameter.__bases__[0]
"""Click's UsageError, which typer keeps in one place or another."""
EXTRAS = {
    "torch": "sweep", "ray": "sweep", "optuna": "sweep", "tensorboard": "sweep",
    "tokenizers": "sweep", "cmaes": "sweep", "datasets": "data", "transformers": "huggingface",
    "fastapi": "serve", "starlette": "serve", "uvicorn": "serve",
}  # fmt: skip
"""Packages that only some commands need, and the extra that brings each."""


FIXED = (
    "a sweep keeps the settings it began with. Raise [cap] in its file and run that with the same "
    "--dir; for anything else change the file and run it with another --dir"
)
"""What to do instead of resuming with other settings."""


@contextmanager
def told() -> Iterator[None]:
    """Turn a person's mistake into lines on stderr and an exit code."""
    try:
        yield
    except SystemExit:
        raise
    except (typer.Abort, KeyboardInterrupt):
        _leave("interrupted", INTERRUPTED)
    except _USAGE as error:
        _leave(_usage(error), YOUR_INPUT)
    except ModuleNotFoundError as error:
        _leave(_absent(error), YOUR_INPUT)
    except _refusals() as error:
        _leave(str(error), REFUSED)
    except _mistakes() as error:
        _leave(str(error), YOUR_INPUT)
    except sqlite3.DatabaseError as error:
        _leave(f"ledger.db: {error}; restore it, or name another folder", YOUR_INPUT)
    except OSError as error:
        _leave(f"{error.filename or 'file'}: {error.strerror or error}", YOUR_INPUT)


def _usage(error: Any) -> str:
    """What is wrong with the command line, the nearest name, and where to read more."""
    said = error.format_message()
    if said.startswith("Usage:"):  # a group without a command: its help
        return said
    said = " ".join(said.split())
    if possible := getattr(error, "possibilities", None):  # of options; for commands click does so
        (nearest,) = get_close_matches(error.option_name, possible, n=1, cutoff=0)
        said = f"No such option: {error.option_name}. Did you mean {nearest}?"
    if getattr(error, "option_name", "") == "-s" and error.ctx.info_name == "resume":
        said += f"; {FIXED}"
    return said if error.ctx is None else f"{said}\ntry: {error.ctx.command_path} --help"


def _absent(error: ModuleNotFoundError) -> str:
    """Which extra brings a package; an import that fails for another reason is ours to mend."""
    name = (error.name or "").partition(".")[0]
    if name not in EXTRAS:
        raise error
    return f"this needs the package {name}: pip install 'isoflop[{EXTRAS[name]}]'"


def check_names() -> None:
    """Make sure that the folders with common names are ours, and say whose they are if not."""
    home = Path(__file__).resolve().parent.parent
    for name in ("analysis", "cluster", "data", "model", "tuner"):
        spec = find_spec(name)
        origin = Path(spec.origin).resolve() if spec and spec.origin else None
        if origin is None or origin.parent != home / name:
            _leave(
                f"{origin or name}: shadows isoflop's own `{name}`. "
                "Run from another folder, or rename it",
                YOUR_INPUT,
            )


def storage_trouble() -> tuple[type[Exception], ...]:
    """What a full or broken disk raises during a sweep."""
    from optuna.exceptions import StorageInternalError  # noqa: PLC0415  loads Optuna

    return OSError, sqlite3.Error, StorageInternalError


def _refusals() -> tuple[type[Exception], ...]:
    from tuner.errors import BudgetError  # noqa: PLC0415  only once something was raised

    return (BudgetError,)


def _mistakes() -> tuple[type[Exception], ...]:
    # Looked up only once something was raised: two of these load pandas.
    from analysis.results import FitError  # noqa: PLC0415
    from analysis.tables import RunTableError  # noqa: PLC0415
    from data.errors import CorpusError  # noqa: PLC0415
    from tuner.errors import ConfigError  # noqa: PLC0415

    return ConfigError, CorpusError, FitError, RunTableError


def _leave(message: str, code: int) -> NoReturn:
    for line in message.splitlines():
        print(f"isoflop: {line}", file=sys.stderr)
    sys.exit(code)
