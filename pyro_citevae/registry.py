"""From a name to a class: ``CiteVAE``, ``citevae``, or ``my_model.py:MyModel``."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import MappingProxyType

from pyro_citevae import guides, models
from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.errors import ModelError
from pyro_citevae.infer.ensemble import Ensemble, member_folders
from pyro_citevae.infer.posterior import Posterior, read_record
from pyro_citevae.program import LatentDynamics

__all__ = ["GUIDES", "MODELS", "find_guide", "find_model", "load"]

MODELS: MappingProxyType[str, type[LatentDynamics]] = MappingProxyType(
    {name: getattr(models, name) for name in models.__all__}
)
GUIDES: MappingProxyType[str, type[AmortizedGuide]] = MappingProxyType(
    {name: found for name in guides.__all__ if issubclass(found := getattr(guides, name), AmortizedGuide)}
)


def find_model(name: str) -> type[LatentDynamics]:
    """The model of a name, in any case, or of ``FILE:CLASS``.

    Raises:
        ModelError: There is none.

    Example:
        >>> find_model("citevae").__name__
        'CiteVAE'
    """
    found = _find(name, MODELS, "model")
    if not issubclass(found, LatentDynamics):
        raise ModelError(f"--model '{name}' is not a subclass of LatentDynamics.")
    return found


def find_guide(name: str) -> type[AmortizedGuide]:
    """The guide of a name, in any case, or of ``FILE:CLASS``.

    Raises:
        ModelError: There is none.
    """
    found = _find(name, GUIDES, "guide")
    if not issubclass(found, AmortizedGuide):
        raise ModelError(f"--guide '{name}' is not a subclass of AmortizedGuide.")
    return found


def load(
    path: str | Path,
    *,
    model: type[LatentDynamics] | None = None,
    guide: type[AmortizedGuide] | None = None,
) -> Posterior | Ensemble:
    """Reads a run's folder: a posterior, or an ensemble of them.

    Nothing in the folder is executed: classes that this package does not ship must be named.

    Args:
        path: Folder that :meth:`Posterior.save` wrote.
        model: Class of the model, if it is your own.
        guide: Class of the guide, if it is your own.

    Raises:
        RunError: The folder is no run, or is damaged.
        ModelError: The run's class is not shipped and was not named.
    """
    members = [load(folder, model=model, guide=guide) for folder in member_folders(Path(path))]
    if members:
        return Ensemble([one for one in members if isinstance(one, Posterior)])
    record = read_record(Path(path))
    return Posterior.load(
        path,
        model or find_model(_shipped(record["model"]["class"], "model")),
        guide or find_guide(_shipped(record["guide"]["class"], "guide")),
    )


def _shipped(reference: str, what: str) -> str:
    module, _, name = reference.rpartition(":")
    if not module.startswith(f"pyro_citevae.{what}s."):
        raise ModelError(f"the run's {what} is your own class '{name}'; pass it: load(path, {what}={name}).")
    return name


def _find(name: str, shipped: MappingProxyType[str, type], what: str) -> type:
    file, _, class_name = name.rpartition(":")
    if file:
        return _from_file(Path(file), class_name, what)
    folded = {known.casefold(): known for known in shipped}
    if name.casefold() not in folded:
        raise ModelError(
            f"--{what} '{name}' is unknown; name one of {', '.join(shipped)}, or FILE.py:CLASS for your own."
        )
    return shipped[folded[name.casefold()]]


def _from_file(file: Path, class_name: str, what: str) -> type:
    name = f"pyro_citevae_plugin_{file.stem}"  # a name of its own, so that no real module is replaced
    spec = importlib.util.spec_from_file_location(name, file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise ModelError(f"--{what} '{file}:{class_name}': '{file}' is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        raise ModelError(f"--{what} '{file}:{class_name}': the file defines no class '{class_name}'.")
    return found
