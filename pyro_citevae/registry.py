"""From a name to a class: ``CiteVAE``, ``citevae``, an installed plug-in, or ``my_model.py:MyModel``.

A package of its own plugs in by an entry point of the group ``pyro_citevae.models`` or
``pyro_citevae.guides``, such as ``[project.entry-points."pyro_citevae.models"] Mine = "my_package:Mine"``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, cast, final

from pyro_citevae import guides, models
from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.class_source import kind_and_reason, module_of, reference
from pyro_citevae.errors import CiteVAEWarning, ModelError
from pyro_citevae.infer.ensemble import Ensemble
from pyro_citevae.infer.posterior import Posterior
from pyro_citevae.infer.run_files import member_folders, one_state
from pyro_citevae.infer.run_record import read_record
from pyro_citevae.program import LatentDynamics

__all__ = ["GUIDES", "MODELS", "Listing", "find", "find_guide", "find_model", "listings", "load"]

MODELS: MappingProxyType[str, type[LatentDynamics]] = MappingProxyType(
    {name: getattr(models, name) for name in models.__all__}
)
GUIDES: MappingProxyType[str, type[AmortizedGuide]] = MappingProxyType(
    {name: found for name in guides.__all__ if issubclass(found := getattr(guides, name), AmortizedGuide)}
)


@final
@dataclass(frozen=True)
class Listing:
    """A line of what can be named.

    Attributes:
        kind: ``"model"`` or ``"guide"``.
        name: Its name on the command line.
        origin: The installed package that it comes from.
        what: First line of its docstring, or why it cannot be loaded.
    """

    kind: str
    name: str
    origin: str
    what: str


@dataclass(frozen=True)
class _Kind:
    """Models or guides: their base class, what ships, and what is plugged in."""

    name: str
    abstract: type
    shipped: Mapping[str, type]

    @property
    def plugins(self) -> list[Any]:
        """The installed entry points, the same one never twice; nothing is imported.

        They are of another class where ``importlib_metadata`` was imported before.
        """
        found = dict.fromkeys(entry_points(group=f"pyro_citevae.{self.name}s"))
        return sorted(found, key=lambda entry: (entry.name, entry.value))

    @property
    def names(self) -> list[str]:
        """The names that can be given."""
        return list(dict.fromkeys([*self.shipped, *(entry.name for entry in self.plugins)]))

    def named(self, name: str) -> type | None:
        """The shipped or plugged-in class of a name, in any case."""
        folded = {known.casefold(): known for known in self.shipped}
        same = [entry for entry in self.plugins if entry.name.casefold() == name.casefold()]
        if name.casefold() in folded:
            for entry in same:
                self._warn_of_clash(entry)
            return self.shipped[folded[name.casefold()]]
        if len({entry.value for entry in same}) > 1:
            raise ModelError(
                f"{' and '.join(map(_origin, same))} both plug in a {self.name} '{name}'; uninstall one, or "
                "name FILE.py:CLASS."
            )
        return self.loaded(same[0]) if same else None

    def loaded(self, entry: Any) -> type:
        """The class of an entry point, imported now.

        Raises:
            ModelError: It cannot be imported, or is of another kind.
        """
        said = f"the plug-in '{entry.name}' of {_origin(entry)} ({entry.value})"
        try:
            found = entry.load()
        except (Exception, SystemExit) as error:
            raise ModelError(
                f"{said} cannot be loaded: {kind_and_reason(error)}; mend or uninstall it."
            ) from error
        if not (isinstance(found, type) and issubclass(found, self.abstract)):
            raise ModelError(f"{said} is not a subclass of {self.abstract.__name__}; mend its entry point.")
        return found

    def listings(self) -> Iterator[Listing]:
        """What can be named, shipped first."""
        for name, found in self.shipped.items():
            yield Listing(self.name, name, "pyro-citevae", _summary(found))
        taken = {known.casefold() for known in self.shipped}
        for entry in self.plugins:
            if entry.name.casefold() in taken:
                self._warn_of_clash(entry)
                continue
            try:
                what = _summary(self.loaded(entry))
            except ModelError as error:
                what = str(error)
            yield Listing(self.name, entry.name, _origin(entry), what)

    def _warn_of_clash(self, entry: Any) -> None:
        warnings.warn(
            f"the plug-in '{entry.name}' of {_origin(entry)} has the name of a shipped {self.name}, which is "
            "the one that is taken; give the entry point another name.",
            CiteVAEWarning,
            stacklevel=4,
        )


_MODEL = _Kind("model", LatentDynamics, MODELS)
_GUIDE = _Kind("guide", AmortizedGuide, GUIDES)


def find_model(name: str) -> type[LatentDynamics]:
    """The model of a name, in any case, or of ``FILE:CLASS``.

    Raises:
        ModelError: There is none, or its file cannot be read.

    Example:
        >>> find_model("citevae").__name__
        'CiteVAE'
    """
    return cast(type[LatentDynamics], _find(name, (_MODEL,), f"the model '{name}'"))


def find_guide(name: str) -> type[AmortizedGuide]:
    """The guide of a name, in any case, or of ``FILE:CLASS``.

    Raises:
        ModelError: There is none, or its file cannot be read.
    """
    return cast(type[AmortizedGuide], _find(name, (_GUIDE,), f"the guide '{name}'"))


def find(name: str) -> type[LatentDynamics] | type[AmortizedGuide]:
    """The model or guide of a name, told apart by its base class.

    Raises:
        ModelError: There is none, or its file cannot be read.

    Example:
        >>> find("MeanField").__name__
        'MeanField'
    """
    return _find(name, (_MODEL, _GUIDE), f"'{name}'")


def listings() -> list[Listing]:
    """Every model and guide that can be named; a plug-in that cannot be loaded says why."""
    return [*_MODEL.listings(), *_GUIDE.listings()]


def load(
    path: str | Path,
    *,
    model: type[LatentDynamics] | None = None,
    guide: type[AmortizedGuide] | None = None,
) -> Posterior | Ensemble:
    """Reads a run's folder: a posterior, or an ensemble of them.

    Nothing in the folder is executed, and no file that it names: a class that neither ships with this
    package nor is plugged in by an installed one must be given.

    Args:
        path: Folder that :meth:`Posterior.save` wrote.
        model: Class of the model, if it is your own.
        guide: Class of the guide, if it is your own.

    Raises:
        RunError: The folder is no run, or is damaged.
        ModelError: The run's class is your own and was not given.

    Warns:
        CiteVAEWarning: The source file of a class changed since the run was fitted.
    """
    folder = Path(path)
    members = one_state(folder, lambda: [_run(one, model, guide) for one in member_folders(folder)])
    return Ensemble(members) if members else one_state(folder, lambda: _run(folder, model, guide))


def _run(folder: Path, model: type[LatentDynamics] | None, guide: type[AmortizedGuide] | None) -> Posterior:
    """A single run, with the classes that are given or installed."""
    record = read_record(folder)
    return Posterior.load(
        folder,
        model or _installed(record["model"]["class"], _MODEL),
        guide or _installed(record["guide"]["class"], _GUIDE),
    )


def _installed(noted: str, kind: _Kind) -> Any:
    """The shipped or plugged-in class that a run notes."""
    module, _, name = noted.rpartition(":")
    if module.startswith(f"pyro_citevae.{kind.name}s.") and name in kind.shipped:
        return kind.shipped[name]
    for entry in sorted(kind.plugins, key=lambda entry: entry.attr != name):
        if entry.module.partition(".")[0] == module.partition(".")[0]:
            found = kind.loaded(entry)
            if reference(found) == noted:
                return found
    file = module if module.endswith(".py") else "FILE.py"
    raise ModelError(
        f"the run's {kind.name} is your own class '{name}' of '{file}'; pass it by "
        f"load(path, {kind.name}={name})."
    )


def _find(name: str, kinds: tuple[_Kind, ...], said: str) -> Any:
    file, _, class_name = name.rpartition(":")
    found = _in_file(Path(file), class_name, kinds, said) if file else _by_name(name, kinds, said)
    abstract = tuple(kind.abstract for kind in kinds)
    if not issubclass(found, abstract):
        raise ModelError(f"{said} is not a subclass of {' or '.join(one.__name__ for one in abstract)}.")
    return found


def _by_name(name: str, kinds: tuple[_Kind, ...], said: str) -> type:
    for kind in kinds:
        found = kind.named(name)
        if found is not None:
            return found
    known = ", ".join(known for kind in kinds for known in kind.names)
    raise ModelError(f"{said} is unknown; name one of {known}, or FILE.py:CLASS for your own.")


def _in_file(file: Path, class_name: str, kinds: tuple[_Kind, ...], said: str) -> type:
    try:
        module = module_of(file)
    except ModelError as error:
        raise ModelError(f"{said}: {error}") from error
    found = getattr(module, class_name, None)
    if isinstance(found, type):
        return found
    abstract = tuple(kind.abstract for kind in kinds)
    own = [key for key, value in vars(module).items() if _is_own(value, abstract, module)]
    there = f"; it defines {', '.join(own)}" if own else ""
    raise ModelError(f"{said}: the file defines no class '{class_name}'{there}.")


def _is_own(value: object, abstract: tuple[type, ...], module: ModuleType) -> bool:
    return isinstance(value, type) and issubclass(value, abstract) and value.__module__ == module.__name__


def _origin(entry: Any) -> str:
    return entry.dist.name if entry.dist is not None else entry.module


def _summary(found: type) -> str:
    return next(iter((found.__doc__ or "").strip().splitlines()), "")
