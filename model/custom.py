"""A person's own model: `package.module:build`, a shape to any module from tokens to logits.

Its weights and FLOPs are counted on tensors without content, so that no size takes memory or time.
"""

import hashlib
import importlib
import json
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from model.checkpoint import CONFIG, read_pretrained, write_pretrained
from model.parametrization import groups
from model.shape import CountedShape, Counts, Shape

Build = Callable[[Shape], nn.Module]

MODEL = "model"
"""Key of the reference in a saved model's configuration."""


class ModelError(Exception):
    """A person's model that cannot be found, built, counted or trained: what and where."""


def builder(reference: str) -> Build:
    """What `package.module:build` names.

    Raises:
        ModelError: there is no such module, or nothing of that name in it that can be called.
    """
    place, _, name = reference.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # a command's script does not look where it is called
    try:
        found = importlib.import_module(place)
    except Exception as error:  # whatever a person's module raises
        raise ModelError(
            f"{reference}: cannot import `{place}`: {error}. It must be installed, or in the "
            "folder from which isoflop runs"
        ) from error
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise ModelError(f"{reference}: `{place}` has no function `{name}`")
    return found


def fingerprint(reference: str) -> str:
    """Twelve hexadecimal digits of the source that `reference` names: other code, another model."""
    builder(reference)
    module = importlib.import_module(reference.partition(":")[0])
    source = Path(module.__file__ or "")
    return hashlib.sha256(source.read_bytes()).hexdigest()[:12] if source.is_file() else ""


def build(reference: str, shape: Shape, seed: int) -> nn.Module:
    """The module for `shape`, its first values drawn from `seed` alone; checked to be causal.

    Raises:
        ModelError: it cannot be built, or a token's logits depend on tokens after it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = _built(reference, shape)
    _check_causal(reference, module, shape)
    return module


def save(reference: str, shape: Shape, module: nn.Module, folder: Path) -> None:
    """Write `module`, built for `shape`, to `folder`: `load` finds it again."""
    write_pretrained(folder, {MODEL: reference, "shape": vars(shape)}, module.state_dict())


def load(folder: Path) -> tuple[nn.Module, Shape]:
    """The module that `save` wrote, and the shape it was built for.

    Raises:
        FileNotFoundError: the folder is not complete.
        ModelError: its code cannot be found or built, or makes another module now.
    """
    config, weights = read_pretrained(folder)
    shape = Shape(**config["shape"])
    module = build(config[MODEL], shape, 0)
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelError(
            f"{config[MODEL]}: makes another module than the one saved: {_told(error)}"
        ) from error
    return module, shape


def saved(folder: Path) -> bool:
    """Whether `folder` holds a model of one's own rather than the shipped decoder."""
    config = folder / CONFIG
    return config.is_file() and MODEL in json.loads(config.read_text())


@cache
def counted(reference: str, shape: Shape) -> CountedShape:
    """`shape` with the weights and FLOPs of the module that `reference` builds from it.

    FLOPs are those of torch's counter under the math attention kernel: fused ones compute scores
    twice. Weights are grouped as `model.parametrization` groups them.

    Raises:
        ModelError: it cannot be built or counted, or gives no logits.
    """
    with FakeTensorMode(allow_non_fake_inputs=True), torch.random.fork_rng(devices=[]):
        module = _built(reference, shape)
        forward, flops, kept = _passes(reference, module, shape)
    sizes = {"embedding": 0, "vector": 0, "hidden": 0, "head": 0}
    weights = dict(module.named_parameters())
    for name, group in groups(module).items():
        sizes[group] += weights[name].numel()
    counts = Counts(
        params_embedding=sizes["embedding"],
        params_head=sizes["head"],
        params_transformer=sizes["hidden"] + sizes["vector"],
        flops_forward=forward,
        flops=flops,
        kept=kept,
    )
    return CountedShape(**vars(shape), counts=counts)


def _built(reference: str, shape: Shape) -> nn.Module:
    size = f"{shape.num_layers}x{shape.d_model}"
    try:
        module = builder(reference)(shape)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{reference}: building {size} failed: {_told(error)}") from error
    if not isinstance(module, nn.Module):
        raise ModelError(f"{reference}: gave a {type(module).__name__} for {size}, no nn.Module")
    if not any(weight.requires_grad for weight in module.parameters()):
        raise ModelError(f"{reference}: the module for {size} has no weights to train")
    return module


def _passes(reference: str, module: nn.Module, shape: Shape) -> tuple[int, int, int]:
    """FLOPs of a forward pass of one sequence, of both passes, and bytes kept between them."""
    tokens = torch.zeros(1, shape.context_length, dtype=torch.long)
    kept = {weight.untyped_storage()._cdata: 0 for weight in module.parameters()}
    held: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        held.append(tensor)  # so that no later storage takes its place
        storage = tensor.untyped_storage()
        kept.setdefault(storage._cdata, storage.nbytes())
        return tensor

    counter = FlopCounterMode(display=False)
    try:
        with sdpa_kernel(SDPBackend.MATH), counter:
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                logits = module(tokens)
                _check_logits(reference, logits, shape)
                loss = cross_entropy(logits.flatten(0, 1), tokens.flatten())
            forward = counter.get_total_flops()
            loss.backward()
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"{reference}: cannot be counted on tensors without content: {_told(error)}"
        ) from error
    return forward, counter.get_total_flops(), sum(kept.values())


def _check_logits(reference: str, logits: object, shape: Shape) -> None:
    expected = (1, shape.context_length, shape.vocab_size)
    found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if found != expected:
        raise ModelError(
            f"{reference}: must give logits (batch, time, vocab_size) = {expected}, got {found}"
        )


@torch.no_grad()
def _check_causal(reference: str, module: nn.Module, shape: Shape) -> None:
    """A model that sees what it is to predict reaches any loss."""
    training = module.training
    tokens = torch.zeros(2, shape.context_length, dtype=torch.long)
    tokens[1, -1] = shape.vocab_size - 1
    logits = module.eval()(tokens)
    module.train(training)
    one, other = logits[:, :-1]
    if not torch.allclose(one, other, rtol=1e-4, atol=1e-5):
        raise ModelError(f"{reference}: logits depend on tokens that come after: mask them")


def _told(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
