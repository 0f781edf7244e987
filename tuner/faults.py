"""What a person is told of a wrong sweep file: one line a fault, with place, value and remedy."""

import difflib
import json
import re
from typing import Any

from pydantic import BaseModel, ValidationError

_EXAMPLES = {"name": ', e.g. name = "mine"', "budgets": ", e.g. budgets = [3e10, 1e11, 3e11]"}
_WANTED = {
    "name": "letters, digits, dots, dashes and underscores are wanted, a letter or digit first",
    "model": 'write "package.module:build", or nothing for the shipped decoder',
    "data.tokenizer": 'write "byte", or "bpe:SIZE" with SIZE from 257 up',
    "replay.columns": 'write "THEIRS=OURS", e.g. "final_loss=loss"',
    "resources.trials_per_gpu": 'write "auto", or a whole number from 1 up',
}
"""What belongs at a key, where pydantic would show a pattern or one member of a union."""


def told(model: type[BaseModel], place: str, error: ValidationError) -> list[str]:
    """One line a fault; of a value wrong in several ways the most precise one.

    Args:
        model: what was to be validated.
        place: the file, as the person named it.
        error: what pydantic found.
    """
    by_key: dict[str, list[str]] = {}
    for fault in error.errors():
        key = _key(fault["loc"])
        lines = [f"{place}: {line}" for line in _told(model, key, dict(fault)).splitlines()]
        by_key.setdefault(key, lines)
    deeper = {key.rpartition(".")[0] for key in by_key if key.rpartition(".")[2].isdigit()}
    return [line for key, lines in by_key.items() if key not in deeper for line in lines]


def _key(location: tuple[int | str, ...]) -> str:
    """The key a person wrote: pydantic's location also names members of unions and types."""
    parts = [str(part) for part in location]
    return ".".join(part for part in parts if not _TYPE.match(part))


_TYPE = re.compile(r"(constrained-)?(int|float|tuple|literal)(\[.*)?$")


def _told(model: type[BaseModel], key: str, fault: dict[str, Any]) -> str:
    if fault["type"] == "extra_forbidden":
        return f"unknown key `{key}`.{_near(model, key)}"
    if fault["type"] == "missing":
        return f"`{key}` is missing. Add it{_EXAMPLES.get(key, '')}"
    message = fault["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if fault["type"] == "value_error" and isinstance(fault["input"], dict):
        return f"{f'{key}.' if key else ''}{message}"
    message = _WANTED.get(re.sub(r"\.\d+$", "", key), message)
    if fault["type"] == "tuple_type":
        message = f"expected a list{_EXAMPLES.get(key, '')}"
    if fault["type"] == "too_long":
        message = f"{fault['ctx']['max_length']} values are wanted"
    if fault["type"] == "model_type":
        message = f"is a section; write [{key}] and its keys below"
    return f"`{key}` = {json.dumps(fault['input'], default=str)}: {message}"


def _near(model: type[BaseModel], key: str) -> str:
    known = _keys(model)
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    near = near or [
        name for name in known if name.split(".")[-1] == key.rsplit(".", maxsplit=1)[-1]
    ]
    return f" Did you mean `{near[0]}`?" if near else " Remove it."


def _keys(section: type[BaseModel], prefix: str = "") -> list[str]:
    names: list[str] = []
    for name, field in section.model_fields.items():
        names.append(prefix + name)
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            names += _keys(inner, f"{prefix}{name}.")
    return names
