"""Doses of cells: of a screen's many tokens, the few that a cell was given."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils._pytree import tree_map

__all__ = ["Doses"]


@final
class Doses(Tensor):
    r"""The matrix of doses ``(..., cell, token)``, held as the tokens and amounts that each cell was given.

    To any operation it is the dense tensor. What a program does with doses costs what the cells were given,
    however many tokens a screen has::

        u @ matrix                 sum_j amount_nj matrix[token_nj]
        u.sum(-1), u.amax(-1)      over a cell's amounts
        u * value, u / value       a value a token, or one number a cell
        u + other, u * other       other doses of the same cells
        u[t], u.cumsum(0)          steps, in which a cell has the same tokens
        f(u)                       where f(0) = 0, such as square, expm1 and clamp(max=1)

    Everything else is done by :attr:`dense`, which a screen of thousands of tokens will feel.

    Attributes:
        token: The tokens that each cell was given at some step; a place that a cell has no use for holds any
            token, at amount zero.
        amount: How much of each, in each step.

    Example:
        >>> import torch
        >>> u = Doses.of(torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 0.5]]), most=1)
        >>> u @ torch.tensor([[1.0], [10.0], [100.0]])
        tensor([[20.],
                [50.]])
        >>> u.token.tolist(), u.sum(-1).tolist(), torch.exp(u).shape
        ([[1], [2]], [2.0, 0.5], torch.Size([2, 3]))
    """

    token: Int[Tensor, "cell given"]
    amount: Float[Tensor, "... cell given"]

    @staticmethod
    def __new__(
        cls, token: Int[Tensor, "cell given"], amount: Float[Tensor, "... cell given"], n_tokens: int
    ) -> Doses:
        """Doses of a number of tokens."""
        shape = (*amount.shape[:-1], n_tokens)
        made: Doses = Tensor._make_wrapper_subclass(cls, shape, dtype=amount.dtype, device=amount.device)
        made.token, made.amount = token, amount
        return made

    @classmethod
    def of(cls, dense: Float[Tensor, "... cell token"], most: int | None = None) -> Doses:
        """The same doses, by what each cell was given.

        Args:
            dense: The matrix; doses are themselves.
            most: How many tokens a cell may have; None for a place for each.
        """
        if isinstance(dense, Doses):
            return dense
        n_cells, n_tokens = dense.shape[-2:]
        if most is None:
            token = torch.arange(n_tokens, device=dense.device).expand(n_cells, n_tokens)
            return cls(token, dense, n_tokens)
        given = (dense != 0).reshape(-1, n_cells, n_tokens).any(0)
        token = given.int().argsort(dim=-1, descending=True, stable=True)[:, :most]
        return cls(token, dense.gather(-1, token.expand(*dense.shape[:-1], -1)), n_tokens)

    @classmethod
    def each(cls, schedules: Iterable[Float[np.ndarray, "step token"]]) -> Doses:
        """Doses of a cell under each of some schedules; no more than one of their matrices lies in memory.

        Args:
            schedules: Dose of each token in each step.

        Example:
            >>> Doses.each(np.float32([[[0, 0, 1]], [[1, 0, 1]]])).token.tolist()
            [[2, 0], [0, 2]]
        """
        tokens, amounts = [], []
        for u in schedules:
            n_tokens, given = u.shape[1], np.flatnonzero(u.any(0))
            tokens.append(given)
            amounts.append(u[:, given])
        most = max([1, *map(len, tokens)])
        token = np.zeros((len(tokens), most), dtype=np.int64)
        amount = np.zeros((len(amounts[0]), len(tokens), most), dtype=amounts[0].dtype)
        for c, (given, held) in enumerate(zip(tokens, amounts, strict=True)):
            token[c, : len(given)], amount[:, c, : len(given)] = given, held
        return cls(torch.from_numpy(token), torch.from_numpy(amount), n_tokens)

    def cells(self, index: Int[Tensor, " chosen"]) -> Doses:
        """The doses of some cells, of which one may be named several times."""
        return Doses(self.token[index], self.amount[..., index, :], self.shape[-1])

    @property
    def dense(self) -> Float[Tensor, "... cell token"]:
        """The matrix with its zeros."""
        token = self.token.expand(self.amount.shape)
        zeros = self.amount.new_zeros(self.shape)
        return zeros.scatter_add(-1, token, self.amount)

    def at(self, value: Float[Tensor, "... token"]) -> Float[Tensor, "... cell given"]:
        """Of a value a token, those of the tokens that each cell was given."""
        if value.dim() < 2 or value.shape[-2] == 1:
            row = value if value.dim() < 2 else value.squeeze(-2)
            return row.index_select(-1, self.token.reshape(-1)).unflatten(-1, self.token.shape)
        return value.gather(-1, self.token.expand(*value.shape[:-1], -1))

    def to(self, *args: Any, **kwargs: Any) -> Doses:
        """Copies to a device, or to a type of numbers, as a tensor's ``to`` does."""
        amount = self.amount.to(*args, **kwargs)
        token = self.token.to(amount.device, non_blocking=kwargs.get("non_blocking", False))
        return Doses(token, amount, self.shape[-1])

    def pin_memory(self) -> Doses:  # type: ignore[override]
        """Copies to memory that a GPU can read while the CPU goes on."""
        return Doses(self.token.pin_memory(), self.amount.pin_memory(), self.shape[-1])

    def is_pinned(self) -> bool:  # type: ignore[override]
        """Whether they lie in memory that a GPU can read."""
        return self.amount.is_pinned()

    def new_zeros(self, *args: Any, **kwargs: Any) -> Tensor:
        """Zeros of this type of numbers on this device."""
        return self.amount.new_zeros(*args, **kwargs)

    def __getitem__(self, index: Any) -> Tensor:
        """Steps, steps of cells, or what the dense matrix has there."""
        lead = self.amount.dim() - 2
        if lead == 1 and isinstance(index, int | slice):
            return self._with(self.amount[index])
        if lead == 1 and isinstance(index, tuple) and len(index) == 2:
            steps, cells = index
            if _is_list(cells) and _goes_with(steps, len(self.token[cells])):
                return Doses(self.token[cells], self.amount[steps, cells], self.shape[-1])
        return self.dense[index]

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickles tokens and amounts."""
        return Doses, (self.token, self.amount, self.shape[-1])

    def __deepcopy__(self, memo: dict[int, Any]) -> Doses:
        """Copies tokens and amounts."""
        return Doses(self.token.clone(), self.amount.clone(), self.shape[-1])

    def __repr__(self, **kwargs: Any) -> str:  # type: ignore[override]
        """Shape, and how many tokens a cell was given."""
        return f"Doses(shape={tuple(self.shape)}, given={self.token.shape[-1]}, dtype={self.dtype})"

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """What the doses can do by themselves, and the dense matrix for the rest."""
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if name in _OF_ITSELF or (name == "__get__" and getattr(func, "__self__", None) in _FACTS):
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        if name in _WRITES or (name.endswith("_") and not name.startswith("__")):
            raise NotImplementedError(
                f"doses are not written to by {name}; write to u.clone(), which is dense."
            )
        rule = _RULES.get(name.strip("_"))
        found = NotImplemented if rule is None or kwargs.keys() - _OPTIONS else rule(*args, **kwargs)
        if found is not NotImplemented:
            return found
        dense_args, dense_kwargs = tree_map(_as_dense, (tuple(args), dict(kwargs)))
        return func(*dense_args, **dense_kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Nothing arrives here: an operation that could, would lose the gradient of the amounts."""
        raise NotImplementedError(f"{func} was asked of doses; ask it of their .dense.")

    def _with(self, amount: Float[Tensor, "... cell given"]) -> Doses:
        return Doses(self.token, amount, self.shape[-1])


_OF_ITSELF = frozenset(
    {"dim", "size", "numel", "is_floating_point", "is_complex", "__len__", "get_device", "__hash__"}
)
_OPTIONS = frozenset({"dim", "keepdim", "min", "max", "alpha"})  # that the rules know
_WRITES = frozenset({"__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__"})
_FACTS = frozenset(
    vars(torch._C.TensorBase)[name]
    for name in (
        "shape",
        "dtype",
        "device",
        "ndim",
        "layout",
        "is_cuda",
        "is_cpu",
        "is_sparse",
        "requires_grad",
    )
)


def _is_list(index: Any) -> bool:
    """Whether an index names cells."""
    if isinstance(index, Tensor):
        return index.dim() == 1
    return isinstance(index, slice | Sequence) or getattr(index, "ndim", 0) == 1


def _goes_with(steps: Any, n_cells: int) -> bool:
    """Whether steps are the same for all cells, or named for each of them."""
    if isinstance(steps, Tensor):
        return steps.dim() > 0 and steps.shape[-1] == n_cells
    return isinstance(steps, int | slice)


def _as_dense(value: Any) -> Any:
    return value.dense if isinstance(value, Doses) else value


def _product(u: Any, matrix: Any) -> Any:
    """``sum_j amount_nj matrix[token_nj]``."""
    if not isinstance(u, Doses) or isinstance(matrix, Doses) or matrix.shape[-2:-1] != u.shape[-1:]:
        return NotImplemented
    rows = matrix.index_select(-2, u.token.reshape(-1)).unflatten(-2, u.token.shape)
    return (u.amount[..., None] * rows).sum(-2)


def _sum(u: Doses, dim: Any = None, keepdim: bool = False) -> Any:
    return u.amount.sum(-1, keepdim=keepdim) if _over_tokens(u, dim) else NotImplemented


def _largest(u: Doses, dim: Any = (), keepdim: bool = False) -> Any:
    if not _over_tokens(u, dim):
        return NotImplemented
    most = u.amount.amax(-1, keepdim=keepdim)
    return most if u.token.shape[-1] == u.shape[-1] else most.clamp(min=0.0)  # a token that was not given


def _over_tokens(u: Any, dim: Any) -> bool:
    return isinstance(u, Doses) and dim in (-1, u.dim() - 1, (-1,), [-1])


def _summed_up(u: Doses, dim: int) -> Any:
    """The sum over the steps so far."""
    return u._with(u.amount.cumsum(dim)) if dim % u.dim() < u.dim() - 2 else NotImplemented


def _scaled(combine: Callable[[Any, Any], Tensor]) -> Callable[[Any, Any], Any]:
    """Products and quotients, which are zero where the doses are."""

    def scaled(one: Any, other: Any) -> Any:
        u, value, turned = (one, other, False) if isinstance(one, Doses) else (other, one, True)
        if turned and combine is not operator.mul:
            return NotImplemented
        if isinstance(value, Doses):
            return u._with(combine(u.amount, value.amount)) if value.token is u.token else NotImplemented
        if isinstance(value, Tensor) and value.dim() and value.shape[-1] == u.shape[-1] != 1:
            value = u.at(value)
        return u._with(combine(u.amount, value))

    return scaled


def _added(one: Any, other: Any, *, alpha: float = 1) -> Any:
    """The sum of doses of the same cells; nothing added is a zero."""
    if isinstance(one, Doses) and isinstance(other, Doses):
        same = one.token is other.token
        return one._with(one.amount + alpha * other.amount) if same else NotImplemented
    u, value = (one, other) if isinstance(one, Doses) else (other, one)
    return u if isinstance(value, int | float) and value == 0 and alpha == 1 else NotImplemented


def _clamped(u: Doses, min: float | None = None, max: float | None = None) -> Any:
    if isinstance(min, Tensor) or isinstance(max, Tensor):
        return NotImplemented
    keeps_zero = (min is None or min <= 0) and (max is None or max >= 0)
    return u._with(u.amount.clamp(min, max)) if keeps_zero else NotImplemented


def _by_amount(function: Callable[[Tensor], Tensor]) -> Callable[[Any], Any]:
    return lambda u: u._with(function(u.amount))


_RULES: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "matmul": _product,
        "sum": _sum,
        "amax": _largest,
        "cumsum": _summed_up,
        "mul": _scaled(operator.mul),
        "multiply": _scaled(operator.mul),
        "div": _scaled(operator.truediv),
        "truediv": _scaled(operator.truediv),
        "add": _added,
        "radd": _added,
        "clamp": _clamped,
        "square": _by_amount(torch.square),
        "neg": _by_amount(torch.neg),
        "expm1": _by_amount(torch.expm1),
        "tanh": _by_amount(torch.tanh),
        "abs": _by_amount(torch.abs),
        "sqrt": _by_amount(torch.sqrt),
        "detach": _by_amount(Tensor.detach),
        "double": _by_amount(Tensor.double),
        "float": _by_amount(Tensor.float),
    }
)
