"""The state of a fit on disk: safetensors with JSON in the header, whole or not at all, never pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import lightning
import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pyro_citevae.errors import FitError, RunError, reason
from pyro_citevae.infer.fit_identity import require_same
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
        state = StateFile().load_checkpoint(self.file)
        require_same(self.folder, state["citevae"]["fit"], self.fit)
        return state


class _Own(BaseModel):
    """What a state holds of ours."""

    model_config = ConfigDict(strict=True, arbitrary_types_allowed=True)
    fit: dict[str, Any]
    history: list[dict[str, float]]
    finished: bool
    course: dict[str, Any]
    random: dict[str, Tensor]
    order: Tensor | None


class _State(BaseModel):
    """A state, as far as it is read before Lightning takes it up."""

    model_config = ConfigDict(extra="allow", strict=True, arbitrary_types_allowed=True)
    citevae: _Own
    state_dict: dict[str, Tensor]


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
        >>> state = {"betas": (0.9, 0.99), "state_dict": {"a": torch.ones(2)}}
        >>> own = {"fit": {}, "history": [], "finished": False, "course": {}, "random": {}, "order": None}
        >>> StateFile().save_checkpoint(state | {"citevae": own}, path)
        >>> StateFile().load_checkpoint(path)["state_dict"]
        {'a': tensor([1., 1.])}
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
                save_file(tensors, file, metadata={"state": content, "sha256": _digest(content, tensors)})
        except SafetensorError as error:
            then = "; the epoch before is kept, so make room and go on (--resume, resume=True)"
            raise RunError(
                f"'{path}' cannot be written ({reason(error)}){then if Path(path).exists() else ''}."
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
                said = file.metadata() or {}
            if said.get("sha256") != _digest(said.get("state", ""), tensors):
                raise ValueError("its checksum is another")
            state: dict[str, Any] = _together(json.loads(said["state"]), tensors)
            _State.model_validate(state)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise RunError(
                f"'{path}' is no whole state of a fit ({reason(error)}); delete it to start anew."
            ) from error
        return state

    def remove_checkpoint(self, path: Any) -> None:
        """Deletes a state."""
        Path(path).unlink(missing_ok=True)


def _digest(content: str, tensors: Mapping[str, Tensor]) -> str:
    """A checksum of a state, however the file lays it out."""
    found = hashlib.sha256(content.encode())
    for name in sorted(tensors):
        found.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        found.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


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
