"""Text from a trained model's folder, ours or the course's."""

from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import nn

from data import tokenizer
from data.tokenizer import Tokenizer
from model import custom
from model.generate import Sampling
from model.generate import generate as write
from model.shape import Shape
from model.transformer import BasicsTransformerLM
from tuner.errors import ConfigError
from tuner.single import TOKENIZER


def generate(
    folder: Path,
    prompts: Sequence[str],
    *,
    tokens: int,
    sampling: Sampling,
    seed: int,
    coder_name: str | None = None,
    past_end: bool = False,
) -> list[str]:
    """What the model in `folder` writes after each prompt, all of them one batch.

    Args:
        folder: `model_config.json` and `model.pt`; a tokenizer lies beside them or is named.
        prompts: of any lengths from one token up.
        tokens: to add to each, at most.
        sampling: how a token is chosen.
        seed: of the draw.
        coder_name: `byte`, or a `tokenizer.json` of the `tokenizers` package; None reads the
            folder's own.
        past_end: write on where a document ends.

    Raises:
        ConfigError: no model or no tokenizer, one that does not fit the other, an empty prompt.
    """
    model, shape = _model(folder)
    coder = _coder(folder, coder_name, shape.vocab_size)
    asked = [torch.from_numpy(coder.encode(prompt).astype("int64")) for prompt in prompts]
    if not all(len(prompt) for prompt in asked):
        raise ConfigError("--prompt: is empty; give at least one character")
    written = write(
        model,
        asked,
        tokens,
        context_length=shape.context_length,
        sampling=sampling,
        eos_token_id=None if past_end else coder.separator,
        generator=torch.Generator().manual_seed(seed),
    )
    return [_text(coder, row.tolist(), past_end=past_end) for row in written]


def _text(coder: Tokenizer, row: list[int], *, past_end: bool) -> str:
    """The text of new tokens, up to the end of the document.

    Tokens that the tokenizer lacks say nothing: vocabularies are padded to round numbers.
    """
    if not past_end and coder.separator in row:
        row = row[: row.index(coder.separator)]
    return coder.decode([token for token in row if token < coder.vocab_size])


def _model(folder: Path) -> tuple[nn.Module, Shape]:
    try:
        if custom.saved(folder):
            return custom.load(folder)
        model = BasicsTransformerLM.from_pretrained(folder)
    except custom.ModelError as error:
        raise ConfigError(f"{folder}: {error}") from None
    except FileNotFoundError:
        raise ConfigError(
            f"{folder}: no trained model here; make one with: isoflop train"
        ) from None
    except (EOFError, OSError, RuntimeError, TypeError, ValueError, UnpicklingError) as error:
        cause = " ".join(str(error).split())
        raise ConfigError(
            f"{folder}: the model cannot be loaded ({cause}); restore it or train it again"
        ) from None
    return model, model.shape


def _coder(folder: Path, name: str | None, vocab_size: int) -> Tokenizer:
    coder = _own(folder) if name is None else _named(name)
    if coder.vocab_size > vocab_size:
        raise ConfigError(
            f"{folder}: the model knows {vocab_size:,} tokens, the tokenizer {coder.vocab_size:,}; "
            "name the tokenizer it was trained with: --tokenizer"
        )
    return coder


def _own(folder: Path) -> Tokenizer:
    if not (folder / TOKENIZER).is_file():
        raise ConfigError(
            f"{folder}: no tokenizer beside the model; name it: --tokenizer byte, or its "
            "tokenizer.json"
        )
    return tokenizer.load((folder / TOKENIZER).read_text(), folder)


def _named(name: str) -> Tokenizer:
    if name == "byte":
        return tokenizer.Bytes()
    try:
        return tokenizer.BytePairs.parse(Path(name).read_text())
    except Exception as error:  # the package raises bare ones
        raise ConfigError(
            f"--tokenizer {name}: neither `byte` nor a readable tokenizer.json ({error})"
        ) from None
