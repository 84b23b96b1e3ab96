"""Scoring: measured effects, and how far predicted effects and cells are from them."""

from pyro_citevae.analysis.scoring.cells import cell_rows
from pyro_citevae.analysis.scoring.challenge_scale import challenge_scale, challenge_scaled
from pyro_citevae.analysis.scoring.coverage import coverage
from pyro_citevae.analysis.scoring.effects import evaluate
from pyro_citevae.analysis.scoring.measurement import (
    Measurement,
    measure,
    measured_effects,
    reproducible,
    require_unseen,
)
from pyro_citevae.analysis.scoring.scores import pearson, relative_l2
from pyro_citevae.analysis.scoring.tables import (
    ALL,
    CEILING,
    COLUMNS,
    REPRODUCIBLE,
    markdown,
    means,
    scaled_scores,
    skills,
    summary,
)
from pyro_citevae.analysis.scoring.virtual_cell_challenge import challenge_scores

__all__ = [
    "ALL",
    "CEILING",
    "COLUMNS",
    "Measurement",
    "REPRODUCIBLE",
    "cell_rows",
    "challenge_scale",
    "challenge_scaled",
    "challenge_scores",
    "coverage",
    "evaluate",
    "markdown",
    "means",
    "measure",
    "measured_effects",
    "pearson",
    "relative_l2",
    "reproducible",
    "require_unseen",
    "scaled_scores",
    "skills",
    "summary",
]
