"""The names of the package, and where they come from."""

from . import amortization as amortization
from . import analysis as analysis
from . import arguments as arguments
from . import benchmark as benchmark
from . import class_source as class_source
from . import cli as cli
from . import config as config
from . import conformance as conformance
from . import data as data
from . import errors as errors
from . import guides as guides
from . import hooks as hooks
from . import infer as infer
from . import models as models
from . import nn as nn
from . import picture as picture
from . import program as program
from . import recipe as recipe
from . import registry as registry
from . import report as report
from . import scenes as scenes
from . import sites as sites
from . import whole_files as whole_files
from .amortization import AmortizedGuide as AmortizedGuide
from .conformance import check_guide as check_guide
from .conformance import check_model as check_model
from .data import GeneFeatures as GeneFeatures
from .data import Schedule as Schedule
from .data import Schema as Schema
from .data import Split as Split
from .data import Trajectories as Trajectories
from .data import datasets as datasets
from .data import do as do
from .data import features as features
from .data import simulate as simulate
from .errors import CiteVAEError as CiteVAEError
from .infer import Ensemble as Ensemble
from .infer import Posterior as Posterior
from .infer import fit as fit
from .infer import nuts as nuts
from .nn import counts as counts
from .program import LatentDynamics as LatentDynamics
from .program import Mechanism as Mechanism
from .registry import load as load

__version__: str
