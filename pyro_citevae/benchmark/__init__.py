"""Benchmarks: named protocols over folds and seeds, resumable, with every baseline beside the model."""

from pyro_citevae.benchmark.fold import Fold
from pyro_citevae.benchmark.pieces import Results, run
from pyro_citevae.benchmark.protocols import PROTOCOLS, Protocol
from pyro_citevae.benchmark.report import report
from pyro_citevae.benchmark.settings import Settings, Variant, read

__all__ = ["PROTOCOLS", "Fold", "Protocol", "Results", "Settings", "Variant", "read", "report", "run"]
