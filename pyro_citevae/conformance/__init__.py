"""Conformance: the laws that fitting and predicting rely on, tried on any model and guide."""

from pyro_citevae.conformance.check import check_guide, check_model
from pyro_citevae.conformance.laws import LAWS, Law
from pyro_citevae.conformance.report import Report, Row

__all__ = ["LAWS", "Law", "Report", "Row", "check_guide", "check_model"]
