"""What lies between the products of a plain decoder's gradient: by torch, or by kernels in C++.

`Torch` says what each operation is. `Compiled` has `between.cpp` do it in one pass over memory,
where torch takes several; the machine's C++ compiler makes that of it in a second, for all shapes
alike. Rows are tokens; T is the dtype of products, the stream's is float32 or T.
"""

import ctypes
import platform
import shutil
import subprocess
import tempfile
from functools import cache, cached_property
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import override

from model.transformer import EPSILON

aten = torch.ops.aten

COMPILERS = ("c++", "g++", "clang++")
SOURCE = Path(__file__).with_name("between.cpp")
FLAGS = (
    "-std=c++14", "-shared", "-fPIC", "-O3", "-march=native", "-ffp-contract=fast",
    # Sums in any order, several terms at a time; what is infinite or no number stays that.
    "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math",
)  # fmt: skip
ARGUMENTS = {
    "normalize": "ppppppppfll",
    "normalize_back": "ppppppppll",
    "gelu": "pppll",
    "gelu_back": "pppll",
    "softmax": "ppll",
    "softmax_back": "ppll",
    "by_head": "ppllllll",
    "score": "ppppll",
    "round_all": "ppl",
    "widen_all": "ppl",
}
"""Of the functions in `SOURCE`: p a pointer, f a float, l a long."""
KINDS = {"p": ctypes.c_void_p, "f": ctypes.c_float, "l": ctypes.c_long}


class Normalized:
    """What a layer normalization leaves for its backward: its own buffers, or torch's tensors."""

    def __init__(self, stream: Tensor, dtype: torch.dtype) -> None:
        self.stream = torch.empty_like(stream)
        """What was normalized, (rows, d_model)."""
        self.rows = torch.empty_like(stream, dtype=dtype)
        """The same normalized, times the gain, in T."""
        self.mean, self.rstd = stream.new_empty(2, len(stream)).unbind()


class Torch:
    """By torch, in any dtype.

    Args:
        dtype: of products.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def normalize(
        self,
        stream: Tensor,
        more: Tensor | None,
        bias: Tensor | None,
        gain: Tensor,
        done: Normalized,
    ) -> None:
        """The stream, with rows and a bias of T added, normalized."""
        if more is None:
            done.stream.copy_(stream)
        else:  # a sum of two dtypes takes ten times as long
            torch.add(stream, more.to(stream.dtype), out=done.stream)
        if bias is not None:
            done.stream += bias
        y, done.mean, done.rstd = torch.native_layer_norm(
            done.stream, gain.shape, gain, None, EPSILON
        )
        done.rows = y.to(self.dtype)

    def normalize_back(
        self, done: Normalized, dy: Tensor, gain: Tensor, dgain: Tensor, dx: Tensor, low: Tensor
    ) -> None:
        """Add to `dx`, the stream's gradient, what `dy`, the rows', makes of it.

        `low` becomes the same in T: it may be `dx` itself.
        """
        dy = dy.to(dx.dtype)  # in bfloat16 torch's kernel adds up rows without end
        own, found, _ = aten.native_layer_norm_backward(
            dy, done.stream, gain.shape, done.mean, done.rstd, gain, None, [True, True, False]
        )
        dgain.copy_(found)
        dx += own
        if low is not dx:
            low.copy_(dx)

    def gelu(self, before: Tensor, bias: Tensor, after: Tensor) -> None:
        """GELU of `before` with `bias`; leaves in `before` what `gelu_back` needs."""
        before += bias
        aten.gelu.out(before, out=after)

    def gelu_back(self, kept: Tensor, d: Tensor, dbias: Tensor) -> None:
        """The gradient before GELU in place of the one after it, and the bias's."""
        aten.gelu_backward.grad_input(d, kept, grad_input=d)
        torch.sum(d, 0, out=dbias)

    def softmax(self, scores: Tensor, mask: Tensor, chances: Tensor) -> None:
        """Chances of (batch · heads, time, time) `scores`, which `mask` makes causal."""
        scores += mask
        torch.softmax(scores, -1, out=chances)

    def softmax_back(self, chances: Tensor, d: Tensor) -> None:
        """The gradient of scores in place of the chances'."""
        aten._softmax_backward_data.out(d, chances, -1, d.dtype, grad_input=d)

    def to_heads(self, rows: Tensor, heads: Tensor) -> None:
        """Rows to heads, both seen as (parts, batch, heads, time, size)."""
        heads.copy_(rows)

    def to_rows(self, heads: Tensor, rows: Tensor) -> None:
        """The same back."""
        rows.copy_(heads)

    def score(self, logits: Tensor, targets: Tensor, slope: Tensor) -> Tensor:
        """See `score`."""
        return score(logits, targets, slope)

    def round(self, exact: list[Tensor], rounded: list[Tensor]) -> None:
        """Tensors of float32 to T."""
        torch._foreach_copy_(rounded, exact)

    def widen(self, rounded: list[Tensor], exact: list[Tensor]) -> None:
        """Tensors of T to float32."""
        torch._foreach_copy_(exact, rounded)


def score(logits: Tensor, targets: Tensor, slope: Tensor) -> Tensor:
    """Log chances (…, 1) of `targets`; by how much `logits` raise their negated sum to `slope`.

    One softmax serves both, so that a chance too small for its dtype, below e^-87, counts as that.
    """
    torch.softmax(logits, -1, out=slope)
    chances = slope.gather(-1, targets)
    slope.scatter_(-1, targets, chances - 1)
    return logarithms(chances.to(torch.promote_types(chances.dtype, torch.float32)))


def logarithms(chances: Tensor) -> Tensor:
    """Finite ones, in place."""
    return chances.clamp_(min=torch.finfo(chances.dtype).tiny).log_()


class Compiled(Torch):
    """By `SOURCE` on one thread, in float32 or bfloat16; the stream is float32.

    The first operation compiles it.

    Raises:
        OSError: there is no compiler.
        RuntimeError: it fails.
    """

    @cached_property
    def _by(self) -> ctypes.CDLL:
        return library(self.dtype)

    @override
    def normalize(
        self,
        stream: Tensor,
        more: Tensor | None,
        bias: Tensor | None,
        gain: Tensor,
        done: Normalized,
    ) -> None:
        into = (done.stream, done.rows, done.mean, done.rstd)
        self._by.normalize(*map(_place, (stream, more, bias, gain, *into)), EPSILON, *stream.shape)

    @override
    def normalize_back(
        self, done: Normalized, dy: Tensor, gain: Tensor, dgain: Tensor, dx: Tensor, low: Tensor
    ) -> None:
        apart = None if low is dx else low
        kept = (done.stream, done.mean, done.rstd)
        self._by.normalize_back(*map(_place, (dx, apart, dy, *kept, gain, dgain)), *dx.shape)

    @override
    def gelu(self, before: Tensor, bias: Tensor, after: Tensor) -> None:
        self._by.gelu(*map(_place, (before, bias, after)), *before.shape)

    @override
    def gelu_back(self, kept: Tensor, d: Tensor, dbias: Tensor) -> None:
        self._by.gelu_back(*map(_place, (d, kept, dbias)), *d.shape)

    @override
    def softmax(self, scores: Tensor, mask: Tensor, chances: Tensor) -> None:
        self._by.softmax(_place(scores), _place(chances), *scores.flatten(0, 1).shape)

    @override
    def softmax_back(self, chances: Tensor, d: Tensor) -> None:
        self._by.softmax_back(_place(d), _place(chances), *d.flatten(0, 1).shape)

    @override
    def to_heads(self, rows: Tensor, heads: Tensor) -> None:
        self._by.by_head(rows.data_ptr(), _place(heads), 0, *heads.shape)

    @override
    def to_rows(self, heads: Tensor, rows: Tensor) -> None:
        self._by.by_head(rows.data_ptr(), _place(heads), 1, *heads.shape)

    @override
    def score(self, logits: Tensor, targets: Tensor, slope: Tensor) -> Tensor:
        chances = torch.empty(targets.shape)
        self._by.score(*map(_place, (logits, slope, targets, chances)), *logits.shape)
        return logarithms(chances)

    @override
    def round(self, exact: list[Tensor], rounded: list[Tensor]) -> None:
        for one, to in zip(exact, rounded, strict=True):
            self._by.round_all(one.data_ptr(), to.data_ptr(), one.numel())

    @override
    def widen(self, rounded: list[Tensor], exact: list[Tensor]) -> None:
        for one, to in zip(rounded, exact, strict=True):
            self._by.widen_all(one.data_ptr(), to.data_ptr(), one.numel())


def _place(tensor: Tensor | None) -> int | None:
    if tensor is None:
        return None
    assert tensor.is_contiguous()
    return tensor.data_ptr()


@cache
def library(dtype: torch.dtype) -> ctypes.CDLL:
    """`SOURCE`, compiled for this processor with T as `dtype`.

    Raises:
        OSError: there is no compiler.
        RuntimeError: it fails, with its first complaint.
    """
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise FileNotFoundError(f"no C++ compiler on the path: {', '.join(COMPILERS)}")
    flags = [*FLAGS, "-DBFLOAT16"] if dtype == torch.bfloat16 else [*FLAGS]
    if platform.machine() in {"x86_64", "AMD64"}:
        flags.append("-mprefer-vector-width=512")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "between.so")
        command = [compiler, *flags, str(SOURCE), "-o", str(path)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode:
            told = run.stderr.strip().splitlines() or [f"exit {run.returncode}"]
            raise RuntimeError(f"{compiler}: {told[0]}")
        found = ctypes.CDLL(str(path))
    for name, kinds in ARGUMENTS.items():
        function = getattr(found, name)
        function.argtypes, function.restype = [KINDS[kind] for kind in kinds], None
    return found
