"""A posterior as files, and back."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pandas as pd
from safetensors.torch import save
from torch import Tensor, nn

from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.class_source import class_record, warn_if_changed
from pyro_citevae.data.schema import Schema
from pyro_citevae.data.splits import Split
from pyro_citevae.errors import CiteVAEWarning, ModelError, RunError, reason
from pyro_citevae.infer.discrepancy import Discrepancy
from pyro_citevae.infer.run_files import DISCREPANCY, HISTORY, SPLIT, WEIGHTS, RunFiles
from pyro_citevae.infer.run_readme import readme
from pyro_citevae.infer.run_record import RECORD, damaged, sealed
from pyro_citevae.program import LatentDynamics

if TYPE_CHECKING:
    from pyro_citevae.infer.posterior import Posterior

__all__ = ["files_of", "parts_of"]

_DERIVED = {"model", "guide", "schema", "versions", "discrepancy", "adequacy", "format", "files", "digest"}
_PACKAGES = ("pyro-citevae", "torch", "pyro-ppl", "lightning", "anndata", "xarray", "numpy")


def files_of(posterior: Posterior, called: str) -> dict[str, bytes]:
    """The content of each file of a run, the record last.

    Args:
        posterior: The posterior.
        called: What the README calls the folder.

    Raises:
        ModelError: The model was made with an argument that JSON cannot hold.
    """
    record, one = _record(posterior), posterior
    said = readme(one.name, one.record, one.adequacy.verdict, one.schema.tokens, called)
    tensors = {
        f"{part}.{name}": value.contiguous()
        for part, module in (("model", one.model), ("guide", one.guide))
        for name, value in module.state_dict().items()
    }
    files: dict[str, bytes] = {WEIGHTS: save(tensors), HISTORY: one.history.to_parquet()}
    if one.split is not None:
        files[SPLIT] = one.split.to_json().encode()
    if one.discrepancy is not None:
        files[DISCREPANCY] = one.discrepancy.to_netcdf()
    return {"README.md": said.encode(), **files, RECORD: sealed(record, files)}  # the text is free to change


def parts_of(
    files: RunFiles, model: type[LatentDynamics], guide: type[AmortizedGuide]
) -> tuple[LatentDynamics, AmortizedGuide, pd.DataFrame, dict[str, Any], Split | None, Discrepancy | None]:
    """What :func:`files_of` was made from.

    Args:
        files: The files, as they were written.
        model: Class of the model.
        guide: Class of the guide.

    Raises:
        RunError: The files are of other classes, or do not fit together.
    """
    folder, record, weights = files.folder, files.record, files.weights()
    for name, found in (("model", model), ("guide", guide)):
        saved = record[name]["class"].rpartition(":")[2]
        if saved != found.__qualname__:
            raise RunError(f"'{folder}' holds the {name} '{saved}', not '{found.__qualname__}'.")
        warn_if_changed(found, record[name], record.get("versions", {}))
    if not files.is_sealed:
        _require_plausible(files, weights)
    try:
        made = model(Schema.from_json(record["schema"]), **record["model"]["settings"])
        made_guide = guide(made, **record["guide"]["settings"])
        for name, module in (("model", made), ("guide", made_guide)):
            part = {key[len(name) + 1 :]: t for key, t in weights.items() if key.startswith(name + ".")}
            module.load_state_dict(part)
            _require_finite(module)
        history = pd.read_parquet(io.BytesIO(files.contents[HISTORY]))
        split, kept = files.contents.get(SPLIT), files.contents.get(DISCREPANCY)
        held_out = None if split is None else Split.from_json(split)
        discrepancy = None if kept is None else Discrepancy.from_netcdf(kept, made.schema)
    except Exception as error:  # whatever a class or a reader says of what is not its own
        raise RunError(f"'{folder}' is damaged or from another version ({reason(error)}).") from error
    if not files.is_sealed:
        warnings.warn(
            "the run was written before runs had checksums, so that damage to its files may go unseen; load "
            "it and save it again.",
            CiteVAEWarning,
            stacklevel=4,
        )
    own = {key: value for key, value in record.items() if key not in _DERIVED}
    return made.eval(), made_guide.eval(), history, own, held_out, discrepancy


def _record(posterior: Posterior) -> dict[str, Any]:
    parts = {"model": posterior.model, "guide": posterior.guide}
    for name, part in parts.items():
        try:
            json.dumps(part.settings)
        except TypeError as error:
            raise ModelError(f"the {name}'s arguments cannot be saved as JSON ({error}).") from None
    return {
        **posterior.record,
        **{name: {**class_record(type(part)), "settings": part.settings} for name, part in parts.items()},
        "schema": posterior.schema.to_json(),
        "discrepancy": posterior.discrepancy is not None,
        "adequacy": posterior.adequacy.record(),
        "versions": {package: version(package) for package in _PACKAGES},
    }


def _require_plausible(files: RunFiles, weights: Mapping[str, Tensor]) -> None:
    """Refuses sizes of which the weights have nothing, before memory is asked for them."""
    most = max(10_000, sum(value.numel() for value in weights.values()))
    for part in ("model", "guide"):
        for name, value in files.record[part]["settings"].items():
            if isinstance(value, int) and value > most:
                raise damaged(files.folder, f"{name}={value} of the {part} does not fit its weights")


def _require_finite(module: nn.Module) -> None:
    """Refuses parameters that are no numbers."""
    for name, value in module.named_parameters():
        if not value.isfinite().all():
            raise ValueError(f"'{name}' is not finite")
