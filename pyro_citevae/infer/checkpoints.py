"""The state of a fit on disk: safetensors with JSON in the header, whole or not at all, never pickle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import lightning
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pyro_citevae.errors import FitError, RunError, reason
from pyro_citevae.whole_files import aside

__all__ = ["Checkpoints", "EachEpoch", "StateFile"]


@final
@dataclass(frozen=True)
class Checkpoints:
    """Where a fit keeps its state while it trains, one file that each epoch replaces in one step.

    Attributes:
        folder: The folder.
        fit: What the state belongs to, as JSON holds it: model, guide, data, settings.
        name: Name of the file.
    """

    folder: Path
    fit: Mapping[str, Any]
    name: str = "training.safetensors"

    @property
    def file(self) -> Path:
        """The file with the last state."""
        return self.folder / self.name

    def last(self, resume: bool) -> dict[str, Any] | None:
        """The last state; None if there is none.

        Args:
            resume: Whether the fit shall go on from it.

        Raises:
            FitError: The state is of another fit, or there is one and the fit shall not go on.
            RunError: The file cannot be read.
        """
        if not self.file.exists():
            return None
        if not resume:
            raise FitError(
                f"'{self.folder}' holds a fit that was not finished; go on with it (--resume, resume=True), "
                "or delete the folder."
            )
        for half_written in self.folder.glob(f".{self.name}-*"):
            shutil.rmtree(half_written, ignore_errors=True)
        state = StateFile().load_checkpoint(self.file)
        self._require_same(state["citevae"]["fit"])
        return state

    def _require_same(self, saved: Mapping[str, Any]) -> None:
        ours, theirs = _flat(json.loads(json.dumps(self.fit))), _flat(saved)
        for name in (*ours, *theirs):
            if ours.get(name) != theirs.get(name):
                values = "" if name == "data" else f" ({theirs.get(name)}, and here {ours.get(name)})"
                raise FitError(
                    f"'{self.folder}' holds a fit with another {name}{values}; repeat its call to go on with "
                    "it, or start anew in another folder."
                )


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping with joined names."""
    found: dict[str, Any] = {}
    for name, one in value.items():
        found |= _flat(one, f"{prefix}{name} ") if isinstance(one, Mapping) else {f"{prefix}{name}": one}
    return found


@final
class EachEpoch(Checkpoint):
    """Writes the state at the end of each epoch, after all that the epoch says of itself."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_epoch_end(self, trainer: lightning.Trainer, _: lightning.LightningModule) -> None:
        """Writes the state."""
        trainer.save_checkpoint(self.file)


@final
class StateFile(CheckpointIO):
    """Lightning's state of training in one safetensors file: tensors as such, and all else as JSON.

    Example:
        >>> import tempfile, torch
        >>> path = Path(tempfile.mkdtemp()) / "state.safetensors"
        >>> state = {"step": 3, "betas": (0.9, 0.99), "moments": {0: torch.ones(2)}}
        >>> StateFile().save_checkpoint(state, path)
        >>> StateFile().load_checkpoint(path)
        {'step': 3, 'betas': (0.9, 0.99), 'moments': {0: tensor([1., 1.])}}
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes a state aside, flushes it, and gives it its name in one step.

        Raises:
            RunError: The disk refuses, for example since it is full; what was there is still there.
        """
        tensors: dict[str, Tensor] = {}
        content = json.dumps(_apart(checkpoint, tensors, {}))
        try:
            with aside(path, overwrite=True) as file:
                save_file(tensors, file, metadata={"state": content})
        except SafetensorError as error:
            raise RunError(
                f"'{path}' cannot be written ({reason(error)}); make room, and go on from the epoch before "
                "(--resume, resume=True)."
            ) from error

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads a state, with its tensors on the CPU.

        Raises:
            RunError: The file is no whole state.
        """
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                content = json.loads(file.metadata()["state"])
            state: dict[str, Any] = _together(content, tensors)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"'{path}' is no whole state of a fit ({reason(error)}); delete it to start anew."
            ) from error
        return state

    def remove_checkpoint(self, path: Any) -> None:
        """Deletes a state."""
        Path(path).unlink(missing_ok=True)


def _apart(value: Any, tensors: dict[str, Tensor], names: dict[Any, str]) -> Any:
    """The value as JSON holds it, and its tensors in ``tensors``; one that comes twice is held once."""
    if isinstance(value, Tensor):
        tensor = value.detach()
        key = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if tensor.numel() == 0 or key not in names:
            names[key] = str(len(tensors))
            tensors[names[key]] = tensor.cpu().clone().contiguous()
        return {"tensor": names[key]}
    if isinstance(value, Mapping):
        return {"pairs": [[_apart(one, tensors, names) for one in pair] for pair in value.items()]}
    if isinstance(value, (list, tuple)):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_apart(one, tensors, names) for one in value]}
    return value


def _together(value: Any, tensors: dict[str, Tensor]) -> Any:
    """What :func:`_apart` took apart."""
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "pairs":
        return {_together(key, tensors): _together(one, tensors) for key, one in content}
    found = [_together(one, tensors) for one in content]
    return tuple(found) if kind == "tuple" else found
