"""`torch.compile` once a shape, and CUDA graphs: what makes many small kernels few.

Compiled code is kept by torch for the code object it was made from, and only for the last few kinds
of input. Here every shape has a code object of its own, so a process that trains many shapes in
turn compiles each of them once and never falls back.
"""

import shutil
from collections.abc import Callable, Hashable
from functools import cache
from types import FunctionType
from typing import ParamSpec, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils._triton import has_triton

from model.headloss import Part, of_part
from model.transformer import BasicsTransformerLM

BACKEND = "inductor"

P = ParamSpec("P")
R = TypeVar("R")

Call = Callable[[nn.Module, Tensor], Tensor]


def compiler_here(device: torch.device) -> bool:
    """Whether `torch.compile` has what it needs for `device`: a C++ compiler, on a GPU Triton."""
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++", "cc", "gcc")):
        return False
    return device.type == "cpu" or has_triton()


def trunk(model: nn.Module, tokens: Tensor) -> Tensor:
    """All of a shipped decoder but its head."""
    assert isinstance(model, BasicsTransformerLM)
    return model.trunk(tokens)


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
def compiled_part(key: Hashable) -> Part:
    """`headloss.of_part`, compiled for heads that share `key`."""
    return _compiled(of_part, key)


def _compiled(function: Callable[P, R], key: Hashable) -> Callable[P, R]:
    assert isinstance(function, FunctionType)
    code = function.__code__.replace(co_name=f"{function.__name__}_{hash(key):x}")
    own = cast("Callable[P, R]", FunctionType(code, function.__globals__))
    return cast("Callable[P, R]", torch.compile(own, dynamic=False, backend=BACKEND))


class Captured:
    """A gradient recorded as one CUDA graph at its first call, and replayed.

    It must read its weights from, and write its results to, places that never move, and draw no
    random numbers. The loss it returns is overwritten by the next call.
    """

    def __init__(self, gradient: Callable[[Tensor], Tensor]) -> None:
        self.gradient = gradient
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, tokens: Tensor) -> Tensor:
        """See `model.gradient.Gradient`."""
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
