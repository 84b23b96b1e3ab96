"""From AnnData to tensors: schemas, trajectories, schedules, splits, and the shipped screens."""

from pyro_citevae.data import causal3dident_dynamics, datasets, features, image_sequences, pseudobulk
from pyro_citevae.data.anndata_io import open_h5ad
from pyro_citevae.data.features import GeneFeatures
from pyro_citevae.data.interventions import Dose, Schedule, do
from pyro_citevae.data.observations import Observations
from pyro_citevae.data.schema import Schema
from pyro_citevae.data.simulate import Simulation, Truth, simulate
from pyro_citevae.data.splits import Criterion, Split, members_seen
from pyro_citevae.data.trajectories import Batch, Trajectories

__all__ = [
    "Batch",
    "Criterion",
    "Dose",
    "GeneFeatures",
    "Observations",
    "Schedule",
    "Schema",
    "Simulation",
    "Split",
    "Trajectories",
    "Truth",
    "causal3dident_dynamics",
    "datasets",
    "do",
    "features",
    "image_sequences",
    "members_seen",
    "open_h5ad",
    "pseudobulk",
    "simulate",
]
