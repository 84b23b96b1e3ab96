"""Names of the version before: they still work for one version, and warn of what they are called now.

That holds for the import path of every module, for the names of every package, and for arguments. A helper
within a module may have gone; its module's text says what is there.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import MappingProxyType, ModuleType
from typing import Any, TypeVar, final

__all__ = ["MODULES", "attributes", "remember_modules", "renamed_arguments", "warn_of_name"]

_Called = TypeVar("_Called", bound=Callable[..., Any])

# several modules, where the content of one went to several
MODULES: Mapping[str, str] = MappingProxyType(
    {
        "source": "class_source",
        "analysis.baselines_across_perturbations": "analysis.baselines.across_perturbations",
        "analysis.baselines_in_time": "analysis.baselines.in_time",
        "analysis.baselines_on_features": "analysis.baselines.on_features",
        "analysis.calibration": "analysis",
        "analysis.cell_scores": "analysis.scoring.cells",
        "analysis.criticism_plots": "analysis.criticism.plots",
        "analysis.dependence": "analysis.identifiability.dependence",
        "analysis.effect_table": "analysis.baselines.effect_table",
        "analysis.effects": "analysis.identifiability.edge_probabilities",
        "analysis.evaluation": "analysis.scoring",
        "analysis.factor_recovery": "analysis.identifiability.factor_recovery",
        "analysis.held_out_time": "benchmark.held_out_time",
        "analysis.importance_sampling": "analysis.criticism.importance_sampling",
        "analysis.lag_moments": "analysis.identifiability.lag_moments",
        "analysis.latent_additive": "analysis.baselines.latent_additive",
        "analysis.licence": "analysis.identifiability.licence",
        "analysis.licence_conditions": "analysis.identifiability.conditions",
        "analysis.posterior_points": "analysis.identifiability.posterior_points",
        "analysis.replication": "analysis.criticism.replication",
        "analysis.scores": "analysis.scoring.scores",
        "analysis.simulation_based_calibration": "analysis.criticism.simulation_based_calibration",
        "analysis.technical_duplicate": "analysis.baselines.technical_duplicate",
        "analysis.uniformity": "analysis.criticism.uniformity",
        "analysis.virtual_cell_challenge": "analysis.scoring.virtual_cell_challenge",
        "benchmark.features": "recipe",
        "benchmark.pieces": "benchmark.runner",
        "data.array_cache": "scenes.array_cache",
        "data.causal3dident_dynamics": "scenes.dynamics",
        "data.causal3dident_stills": "scenes.causal3dident",
        "data.image_sequences": "scenes",
        "data.layouts": "data.published_layouts",
        "data.render": "scenes.render",
        "data.rendered_sequences": "scenes.rendered",
        "data.storage": "whole_files",
        "data.temporal_causal3dident": "scenes.temporal_causal3dident",
        "infer.prediction": "infer.counterfactuals infer.asked infer.control_error infer.effect "
        "infer.exchangeability infer.predicted_cells infer.substitute",
        "infer.sites": "infer.latent_sites",
    }
)

_ROOT = __package__


def remember_modules() -> None:
    """Lets the import paths of the version before find the modules that took their place."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def attributes(module: str, moved: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a module whose names live elsewhere now.

    Args:
        module: The module's name.
        moved: Where each name is now: ``"package.module:name"``, or a module alone for the module itself.
    """

    def found(name: str) -> Any:
        if _now(f"{module}.{name}"):
            return importlib.import_module(f"{module}.{name}")
        if name not in moved:
            raise AttributeError(f"module '{module}' has no attribute '{name}'")
        where, _, attribute = moved[name].partition(":")
        warn_of_name(f"{module}.{name}", f"{where}.{attribute}" if attribute else where)
        there = importlib.import_module(where)
        return getattr(there, attribute) if attribute else there

    return found


def renamed_arguments(**names: str) -> Callable[[_Called], _Called]:
    """Lets a function be called by the old names of its keyword arguments.

    Args:
        **names: The new name of each old one.

    Example:
        >>> @renamed_arguments(layout="design")
        ... def f(design="snapshot"):
        ...     return design
        >>> with warnings.catch_warnings(record=True) as said:
        ...     warnings.simplefilter("always")
        ...     f(layout="sequences"), str(said[0].message)
        ('sequences', 'f(layout=...) is called f(design=...) now; the old name goes with the next version.')
    """

    def wrapped(function: _Called) -> _Called:
        called = function.__qualname__.removesuffix(".__init__")

        @functools.wraps(function)
        def renaming(*args: Any, **given: Any) -> Any:
            for old, new in names.items():
                if old in given:
                    warn_of_name(f"{called}({old}=...)", f"{called}({new}=...)")
                    given[new] = given.pop(old)
            return function(*args, **given)

        return renaming  # type: ignore[return-value]

    return wrapped


def warn_of_name(old: str, new: str, stacklevel: int = 3) -> None:
    """Warns that something is called otherwise now.

    Args:
        old: What it was called.
        new: What it is called.
        stacklevel: Frames up to the one that used the old name, this function's included.
    """
    warnings.warn(
        f"{old} is called {new} now; the old name goes with the next version.",
        DeprecationWarning,
        stacklevel=stacklevel,
    )


def _now(name: str) -> list[str]:
    """What a module is called now; nothing if its name was never another."""
    root, _, rest = name.partition(".")
    for old, new in MODULES.items():
        if root == _ROOT and (rest == old or rest.startswith(f"{old}.")):
            return [f"{root}.{one}{rest.removeprefix(old)}" for one in new.split()]
    return []


@final
class _Finder(MetaPathFinder):
    """Finds modules by the names of the version before, when there is nothing else of that name."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        new = _now(fullname)
        return ModuleSpec(fullname, _Loader(new), is_package=_is_package(new)) if new else None


def _is_package(new: Sequence[str]) -> bool:
    found = importlib.util.find_spec(new[0]) if len(new) == 1 else None
    return found is not None and found.submodule_search_locations is not None


@final
class _Renamed(ModuleType):
    """A module under its old name, which is that of a function of the package today."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        super().__init__(name)
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the function."""
        return self._function(*args, **kwargs)


@final
class _Loader(Loader):
    """Makes a module that has what other ones have."""

    def __init__(self, new: Sequence[str]) -> None:
        self.new = new

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """A module that does as the function of its name, whose place in the package it takes."""
        package, _, name = spec.name.rpartition(".")
        there = vars(sys.modules[package]).get(name)
        return _Renamed(spec.name, there) if callable(there) else None

    def exec_module(self, module: ModuleType) -> None:
        warn_of_name(module.__name__, self.new[0])
        for name in self.new:
            there = vars(importlib.import_module(name))
            vars(module).update({key: value for key, value in there.items() if not key.startswith("__")})
