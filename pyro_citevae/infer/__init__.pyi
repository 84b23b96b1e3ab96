"""The names of the package, and where they come from."""

from .effect import Effect as Effect
from .ensemble import Ensemble as Ensemble
from .mcmc import nuts as nuts
from .posterior import Posterior as Posterior
from .run_files import verify as verify
from .svi import FitSettings as FitSettings
from .svi import fit as fit
from .unmixing import unmix as unmix
