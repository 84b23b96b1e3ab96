"""Where a computation makes a device wait for the host: what stands in the way of recording it."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["FilledNumbers", "HostReads"]

_PACKAGES = tuple(f"/{name}/" for name in ("torch", "pyro", "jaxtyping", "lightning"))
_HERE = "/pyro_citevae/nn/host_reads.py"
_READS = frozenset(
    {
        "aten::_local_scalar_dense": "reads a number from a tensor, as .item(), float() and if do",
        "aten::item": "reads a number from a tensor, as .item(), float() and if do",
        "aten::is_nonzero": "asks whether a tensor is true",
        "aten::equal": "asks whether tensors are equal",
        "aten::nonzero": "looks for what is not zero, which decides on a shape",
        "aten::masked_select": "picks by a mask, which decides on a shape",
        "aten::_unique2": "looks for different values, which decides on a shape",
        "aten::unique_dim": "looks for different values, which decides on a shape",
        "aten::lift_fresh": "makes a tensor of numbers of Python",
    }.items()
)
_BY_MASK = frozenset({"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"})


@final
class HostReads(TorchDispatchMode):
    """Notes the operations within that read a device from the host, or copy to it.

    Attributes:
        found: A sentence for each, with the line of the program where it is: the innermost one that is
            neither torch's nor Pyro's.

    Example:
        >>> import torch
        >>> with HostReads() as reads:
        ...     inside = torch.ones(3)[torch.ones(3).bool()]
        >>> reads.found[0].split(" at ")[0]
        'picks by a mask, which decides on a shape,'
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Runs the operation."""
        name = func.name().split(".")[0]
        said = dict(_READS).get(name)
        if name in _BY_MASK and any(isinstance(one, Tensor) and one.dtype == torch.bool for one in args[1]):
            said = "picks by a mask, which decides on a shape"
        if said is None and _is_between_devices(name, args, kwargs or {}):
            said = "copies between the host and the device"
        if name == "aten::lift_fresh" and not args[0].numel():
            said = None  # Pyro's plates ask an empty tensor where it lies
        if said is not None:
            self.found.append(f"{said}, at {_line()}")
        return func(*args, **(kwargs or {}))


@final
class FilledNumbers(TorchFunctionMode):
    """Lets a number of Python become a tensor by a fill on the device, in place of a copy from the host.

    ``Normal(loc, 0.3)`` makes such a tensor in every step.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Runs the function."""
        kwargs = dict(kwargs or {})
        is_number = func is torch.tensor and len(args) == 1 and isinstance(args[0], bool | int | float)
        if is_number and not kwargs.get("requires_grad"):
            kwargs.setdefault(
                "dtype", torch.tensor(args[0]).dtype if not isinstance(args[0], float) else None
            )
            return torch.full((), args[0], **kwargs)
        return func(*args, **kwargs)


def _is_between_devices(name: str, args: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether an operation copies from one kind of device to another, or is handed an index from there."""
    if name == "aten::_to_copy":
        to = kwargs.get("device")
        return to is not None and torch.device(to).type != args[0].device.type
    if name == "aten::copy_":
        return bool(args[0].device.type != args[1].device.type)
    if name in _BY_MASK:
        return any(isinstance(one, Tensor) and one.device.type != args[0].device.type for one in args[1])
    return False


def _line() -> str:
    """File and line of the innermost frame of a program."""
    frames = [one for one in traceback.extract_stack() if not one.filename.endswith(_HERE)]
    ours = [one for one in frames if not any(name in one.filename for name in _PACKAGES)]
    last = (ours or frames)[-1]
    return f"{Path(last.filename).name}, line {last.lineno}"
