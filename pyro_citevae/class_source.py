"""The source of a class: the module of a file, where a class comes from, and whether that changed."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

from pyro_citevae.errors import CiteVAEWarning, ModelError

__all__ = ["class_record", "digest", "kind_and_reason", "module_of", "reference", "warn_if_changed"]

_READ = "pyro_citevae_plugin_"


def module_of(file: Path) -> ModuleType:
    """Runs a Python file as a module of its own, once for each content.

    The module's name holds the file's place and its content's hash, so that two files of one name do not
    clash, a class keeps its identity when its file is named twice, and a run can note what was read.

    Raises:
        ModelError: The file cannot be read, compiled or run; the sentence names the line.
    """
    try:
        content = file.read_bytes()
    except OSError:
        content = None
    place = hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:8]
    name = f"{_READ}{file.stem}_{place}_{hashlib.sha256(content or b'').hexdigest()}"
    spec = importlib.util.spec_from_file_location(name, file)
    if content is None or spec is None:
        raise ModelError(f"'{file}' is not a Python file; give the path of one.")
    if name in sys.modules:
        return sys.modules[name]
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        # not by the module's loader, whose cache of compiled code knows a file by its size and its second
        exec(compile(content, str(file), "exec"), vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        mend = "mend the file"
        if isinstance(error, ModuleNotFoundError):  # the file's folder is no place that Python looks in
            mend = "install what it imports, put it into the same file, or name its folder in PYTHONPATH"
        raise ModelError(
            f"'{file}' cannot be read: {kind_and_reason(error, _line(error, file))}; {mend}."
        ) from error
    return module


def kind_and_reason(error: BaseException, place: str = "") -> str:
    """An error's type, where it arose, and the first line of what it says."""
    said = error.msg if isinstance(error, SyntaxError) else next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}{place}" + (f": {said.rstrip('.:')}" if said else "")


def reference(found: type) -> str:
    """A class as ``module:name``, or as ``file:name`` if its module cannot be imported by name.

    Example:
        >>> from pyro_citevae.models import StaticShift
        >>> reference(StaticShift)
        'pyro_citevae.models.static_shift:StaticShift'
    """
    module = found.__module__
    file = _file(module) if module == "__main__" or module.startswith(_READ) else None
    return f"{file or module}:{found.__qualname__}"


def digest(found: type) -> str | None:
    """SHA-256 of the source of a class; None where there is no file, as in a notebook.

    The source is the class's file and, of a class in a package, the files beside it that it uses. A class
    that was read from a file by name has the hash of what was read, whatever became of the file.
    """
    if found.__module__.startswith(_READ):
        return found.__module__.rpartition("_")[2]
    files = [_file(name) for name in sorted(_modules_of(found.__module__))]
    contents = [file.read_bytes() for file in files if file is not None and file.is_file()]
    if len(contents) < 2:
        return hashlib.sha256(contents[0]).hexdigest() if contents else None
    return hashlib.sha256("".join(hashlib.sha256(one).hexdigest() for one in contents).encode()).hexdigest()


def class_record(found: type) -> dict[str, str | None]:
    """What a run notes of a class."""
    return {"class": reference(found), "sha256": digest(found)}


def warn_if_changed(found: type, noted: Mapping[str, Any], versions: Mapping[str, str]) -> None:
    """Warns if the source file of a class is not what it was when the run was fitted.

    Another version of this package may well have another source of its own classes, and the run holds the
    number of the version: of those classes only a change within one version is told.

    Args:
        found: The class that the run is loaded with.
        noted: What :func:`class_record` said of it then.
        versions: Package versions of then.
    """
    then, now = noted.get("sha256"), digest(found)
    shipped = found.__module__.startswith("pyro_citevae.")
    if shipped and versions.get("pyro-citevae") != version("pyro-citevae"):
        return
    if then is not None and now is not None and then != now:
        file = _file(found.__module__)
        warnings.warn(
            f"the source of '{found.__qualname__}' ({file}) has changed since the run was fitted, so that it "
            " may predict otherwise; fit again, or restore the file.",
            CiteVAEWarning,
            stacklevel=5,
        )


def _modules_of(name: str) -> set[str]:
    """A module, and those of its package that it imports from, and so on."""
    package = name.rpartition(".")[0]
    reached, waiting = set[str](), {name}
    while waiting:
        reached.add(one := waiting.pop())
        for value in vars(sys.modules.get(one, ModuleType(one))).values():
            of = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            if package and isinstance(of, str) and of.rpartition(".")[0] == package and of not in reached:
                waiting.add(of)
    return reached


def _file(module: str) -> Path | None:
    """The file of a module."""
    file = getattr(sys.modules.get(module), "__file__", None)
    return None if file is None else Path(file).resolve()


def _line(error: BaseException, file: Path) -> str:
    """Where in a file an error arose."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f" at {error.filename}, line {error.lineno}"
    lines = [at.lineno for at in traceback.extract_tb(error.__traceback__) if at.filename == str(file)]
    return f" at {file}, line {lines[-1]}" if lines else f" at {file}"
