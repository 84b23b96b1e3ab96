"""Tries the laws, one after the other, on a model or a guide."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import pyro
import torch

from pyro_citevae.conformance.laws import LAWS, Law, mend_of, seen_of
from pyro_citevae.conformance.pair import MakeGuide, MakeModel, Pair
from pyro_citevae.conformance.report import Report, Row
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.models import CiteVAE
from pyro_citevae.nn.default_dtype import default_dtype

__all__ = ["check_guide", "check_model"]


def check_model(
    model: MakeModel,
    guide: MakeGuide = BackwardSmoother,
    *,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Tries every law on a model.

    Args:
        model: Its class, or a function of the schema that makes one.
        guide: The class of its guide, or a function of the model that makes one.
        progress: Called with the name of each law before it is tried.

    Returns:
        A row for each law: print it, or call :meth:`Report.require`.

    Example:
        >>> from pyro_citevae.guides import MeanField
        >>> from pyro_citevae.models import StaticShift
        >>> check_model(StaticShift, MeanField).passed
        True

    Source: the idea is that of ``check_estimator``, L. Buitinck et al., API Design for Machine Learning
    Software: Experiences from the scikit-learn Project (2013).
    """
    return _tried(Pair(model, guide), LAWS, progress)


def check_guide(
    guide: MakeGuide,
    model: MakeModel = CiteVAE,
    *,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Tries every law that concerns guides on a guide.

    Args:
        guide: Its class, or a function of the model that makes one.
        model: The class of a model, or a function of the schema that makes one.
        progress: Called with the name of each law before it is tried.

    Returns:
        A row for each law: print it, or call :meth:`Report.require`.
    """
    laws = [law for law in LAWS if law.of_guides]
    return _tried(Pair(model, guide, of_guide=True), laws, progress)


def _tried(pair: Pair, laws: Sequence[Law], progress: Callable[[str], None] | None) -> Report:
    rows: dict[str, Row] = {}
    for law in laws:
        if progress is not None:
            progress(law.name)
        missing = [name for name in law.needs if name in rows and not rows[name].passed]
        rows[law.name] = (
            Row(law.name, law.sentence, None, f"not tried, since '{missing[0]}' does not hold", law.mend)
            if missing
            else _trial(law, pair)
        )
    return Report(pair.subject, pair.partner, tuple(rows.values()))


def _trial(law: Law, pair: Pair) -> Row:
    """How a law stands; what a user's class raises is seen, not thrown on."""
    quiet = warnings.catch_warnings()
    with torch.random.fork_rng(), pyro.validation_enabled(True), default_dtype(), torch.enable_grad(), quiet:
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        try:
            return Row(law.name, law.sentence, True, law.trial(pair), law.mend)
        except Exception as error:
            return Row(
                law.name,
                law.sentence,
                False,
                seen_of(error),
                (mend_of(error) if law.of_hooks else None) or law.mend,
                law.advice,
            )
