"""The sentences of the library's errors and warnings, read from its source."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from pyro_citevae import errors

__all__ = ["catalogue", "sentences"]


def catalogue(package: Path) -> str:
    """A page with each error and its sentences, in Markdown."""
    found: dict[str, set[str]] = defaultdict(set)
    for file in sorted(package.rglob("*.py")):
        for kind, said in sentences(file.read_text()):
            found[kind].add(said)
    parts = (
        f"## {kind}\n\n" + "\n".join(f"* {one}" for one in sorted(found[kind])) for kind in sorted(found)
    )
    return "\n\n".join(parts) + "\n"


def sentences(source: str) -> Iterator[tuple[str, str]]:
    """The class and the sentence of each error or warning that is made by a text of its own."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name, given = _name(node.func), node.args
        if name == "warn" and len(given) > 1:
            name = _name(given[1])
        if not given or name not in errors.__all__:
            continue
        texts = [_text(one) for one in given[:2]] if name == "HookError" else [_text(given[0])]
        if len(texts[0]) > 20:
            yield name, "; ".join(text for text in texts if text)


def _name(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _text(node: ast.AST) -> str:
    """The text of a literal, with an ellipsis for what is filled in; nothing for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(one) if isinstance(one, ast.Constant) else "..." for one in node.values)
    return ""
