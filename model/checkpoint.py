"""A model's folder: `model_config.json` and `model.pt`, in the course's format."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CONFIG = "model_config.json"
WEIGHTS = "model.pt"
COMPILED = "_orig_mod."
"""Prefix that `torch.compile` puts before every name of a compiled module's state."""


def read_pretrained(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Constructor arguments and state dict in `folder`, names freed of the compiler's prefix.

    Raises:
        FileNotFoundError: `model_config.json` or `model.pt` is missing; both named if both are.
    """
    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder}: no {' and no '.join(missing)}. A model's folder holds {CONFIG}, {WEIGHTS}"
        )
    config = json.loads((folder / CONFIG).read_text())
    weights = torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True)
    return config, {name.removeprefix(COMPILED): weight for name, weight in weights.items()}


def write_pretrained(
    folder: Path, config: Mapping[str, object], weights: Mapping[str, Tensor]
) -> None:
    """Write `config` and `weights` to `folder`, which is made if need be; each whole or not."""
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / f"{CONFIG}.new"
    new.write_text(json.dumps(config, indent=2) + "\n")
    new.replace(folder / CONFIG)
    new = folder / f"{WEIGHTS}.new"
    # Cloned: weights that are views of one buffer would each drag the whole of it into the file.
    torch.save({name: weight.cpu().clone() for name, weight in weights.items()}, new)
    new.replace(folder / WEIGHTS)
