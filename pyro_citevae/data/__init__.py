"""From AnnData to tensors: schemas, trajectories, schedules, splits, and the shipped screens."""

from pyro_citevae.data import datasets, features, pseudobulk
from pyro_citevae.data.batch import Batch
from pyro_citevae.data.columns import Columns
from pyro_citevae.data.features import GeneFeatures
from pyro_citevae.data.interventions import Dose, Schedule, do
from pyro_citevae.data.observations import Observations
from pyro_citevae.data.opening import open_anndata, open_h5ad
from pyro_citevae.data.reading import Reading
from pyro_citevae.data.schema import Schema
from pyro_citevae.data.simulate import Simulation, Truth, simulate
from pyro_citevae.data.splits import Criterion, Split, members_seen
from pyro_citevae.data.summary import Summary
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.renamed import attributes

__all__ = [
    "Batch",
    "Columns",
    "Criterion",
    "Dose",
    "GeneFeatures",
    "Observations",
    "Reading",
    "Schedule",
    "Schema",
    "Simulation",
    "Split",
    "Summary",
    "Trajectories",
    "Truth",
    "datasets",
    "do",
    "features",
    "members_seen",
    "open_anndata",
    "open_h5ad",
    "pseudobulk",
    "simulate",
]

__getattr__ = attributes(
    __name__,
    {
        "causal3dident_dynamics": "pyro_citevae.scenes.dynamics",
        "image_sequences": "pyro_citevae.scenes",
    },
)
