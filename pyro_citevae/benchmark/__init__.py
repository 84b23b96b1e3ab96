"""Benchmarks: named protocols over folds and seeds, resumable, with every baseline beside the model."""

from pyro_citevae.benchmark.fold import Fold
from pyro_citevae.benchmark.protocols import PROTOCOLS, Protocol
from pyro_citevae.benchmark.report import report
from pyro_citevae.benchmark.runner import Results, require_protocol, run
from pyro_citevae.benchmark.settings import Settings, Variant, settings_from
from pyro_citevae.renamed import attributes

__all__ = [
    "PROTOCOLS",
    "Fold",
    "Protocol",
    "Results",
    "Settings",
    "Variant",
    "report",
    "require_protocol",
    "run",
    "settings_from",
]

__getattr__ = attributes(__name__, {"read": "pyro_citevae.benchmark.settings:settings_from"})
