"""`torch.compile` once a shape, and CUDA graphs: what makes many small kernels few.

Compiled code is kept by torch for the code object it was made from, and only for the last few kinds
of input. Here every shape has a code object of its own, so a process that trains many shapes in
turn compiles each of them once and never falls back.
"""

import random
import warnings
from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import cache
from types import FunctionType
from typing import ParamSpec, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from typing_extensions import override

from model.between import library
from model.execution import Execution
from model.headloss import Part, of_part
from model.speed import Dtype
from model.transformer import BasicsTransformerLM

BACKEND = "inductor"
WITHIN = "model."
"""Begins the names of a `Trunk`'s weights."""
FAILURES = (RuntimeError, OSError)
"""What a compiler that is missing or broken ends in; torch wraps most causes in the first."""

P = ParamSpec("P")
R = TypeVar("R")

Call = Callable[[nn.Module, Tensor], Tensor]
Trunks = Callable[["Trunk", dict[str, Tensor], Tensor], Tensor]
Gradient = Callable[[Tensor], Tensor]
"""Tokens (batch_size, context_length + 1) to their mean loss, nat/token; the gradient is left in
the optimizer's buffer. Of a stack, (members, …) to (members,)."""


def complaint(device: str) -> str:
    """Why `torch.compile` is of no use on `device`; empty where it works, which takes seconds.

    It is tried: a compiler may be there without Python's headers, or Triton without a compiler.
    """
    # A length of its own each time, so that no cache answers for a compiler that is gone.
    length = random.SystemRandom().randrange(1 << 10, 1 << 20)
    x = torch.ones(length, device=device, requires_grad=True)
    try:
        _compiled(_tried, length)(x).backward()
    except FAILURES as error:
        return _told(error)
    return ""


def complaint_between(dtype: Dtype) -> str:
    """Why `model.between` cannot be compiled; empty where it can, which takes a second."""
    try:
        library(getattr(torch, dtype))
    except FAILURES as error:
        return _told(error)
    return ""


def _tried(x: Tensor) -> Tensor:
    return (x.sin() * x).sum()


def _told(error: BaseException) -> str:
    """An error's kind and first paragraph: torch's advice on its own options is in the others."""
    first, *_ = str(error).strip().split("\n\n")
    return f"{type(error).__name__}: {' '.join(first.split())}"


def trunk(model: nn.Module, tokens: Tensor) -> Tensor:
    """All of a shipped decoder but its head."""
    assert isinstance(model, BasicsTransformerLM)
    return model.trunk(tokens)


class Trunk(nn.Module):
    """`trunk` as a module, its weights' names behind `WITHIN`."""

    def __init__(self, model: BasicsTransformerLM) -> None:
        super().__init__()
        self.model = model

    @override
    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (batch, time) to (batch, time, d_model)."""
        return self.model.trunk(tokens)


def trunks(one: Trunk, weights: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """Several trunks like `one`, with `weights` (members, …): tokens (members, batch, time) to
    (members, batch, time, d_model)."""

    def member(own: dict[str, Tensor], some: Tensor) -> Tensor:
        return functional_call(one, own, (some,))

    return vmap(member)(weights, tokens)


def whole(model: nn.Module, tokens: Tensor) -> Tensor:
    """Any module from tokens to logits."""
    return model(tokens)


@cache
def compiled_trunk(key: Hashable) -> Call:
    """`trunk`, compiled for models that share `key`."""
    return _compiled(trunk, key)


@cache
def compiled_whole(key: Hashable) -> Call:
    """`whole`, compiled for models that share `key`."""
    return _compiled(whole, key)


@cache
def compiled_trunks(key: Hashable) -> Trunks:
    """`trunks`, compiled for models that share `key`."""
    return _compiled(trunks, key)


@cache
def compiled_part(key: Hashable) -> Part:
    """`headloss.of_part`, compiled for heads that share `key`."""
    return _compiled(of_part, key)


def _compiled(function: Callable[P, R], key: Hashable) -> Callable[P, R]:
    assert isinstance(function, FunctionType)
    code = function.__code__.replace(co_name=f"{function.__name__}_{hash(key):x}")
    own = cast("Callable[P, R]", FunctionType(code, function.__globals__))
    return cast("Callable[P, R]", torch.compile(own, dynamic=False, backend=BACKEND))


class OrPlain:
    """A compiled gradient, or a plain one from the first call on if compiling fails there.

    An error that is not the compiler's comes again from the plain one.
    """

    def __init__(self, compiled: Gradient, plain: Callable[[], Gradient]) -> None:
        self.gradient = compiled
        self.plain = plain
        self.tried = False
        self.failed = False
        """Compiling did."""

    def __call__(self, tokens: Tensor) -> Tensor:
        """See `Gradient`."""
        if self.tried:
            return self.gradient(tokens)
        try:
            loss = self.gradient(tokens)
        except torch.OutOfMemoryError:
            raise
        except FAILURES as error:
            warnings.warn(
                f"compiling fails here, training goes on without it ({_told(error)})",
                RuntimeWarning,
                stacklevel=2,
            )
            self.failed = True
            self.gradient = self.plain()
            loss = self.gradient(tokens)
        self.tried = True
        return loss


def compiled_or_plain(execution: Execution, made: Callable[[Execution], Gradient]) -> Gradient:
    """The gradient made for `execution`; where that says compiled, with a plain one to fall to."""
    if not execution.compiled:
        return made(execution)
    return OrPlain(made(execution), lambda: made(replace(execution, compiled=False)))


class Captured:
    """A gradient recorded as one CUDA graph at its first call, and replayed.

    It must read its weights from, and write its results to, places that never move, and draw no
    random numbers. The loss it returns is overwritten by the next call.
    """

    def __init__(self, gradient: Gradient) -> None:
        self.gradient = gradient
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, tokens: Tensor) -> Tensor:
        """See `Gradient`."""
        if self.graph is None:
            self._capture(tokens)
        assert self.graph is not None
        self.tokens.copy_(tokens)
        self.graph.replay()
        return self.loss

    def _capture(self, tokens: Tensor) -> None:
        self.tokens = tokens.clone()
        graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):  # what is allocated or compiled at first must not be recorded
                self.gradient(self.tokens)
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(graph, stream=side):
            self.loss = self.gradient(self.tokens)
        self.graph = graph
