"""How a program's effects lie beside those of cells that the fit has not seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import ndtri

__all__ = ["HeldOut"]

NOMINAL = (0.5, 0.8, 0.95)
_SURE = 4.0  # standard errors from which a direction is there


@final
@dataclass(frozen=True)
class HeldOut:
    r"""What held-out cells say of the fit, by effects ``delta = profile_p - profile_control`` on each side.

    ::

        V         = mean var(delta^b)
        error     = mean (delta^m - delta^b)^2 / V                       1 for a perfect program
        explained = 1 - (mean (delta^m - delta^b)^2 - V) / (mean (delta^b)^2 - V)

    m is the program, fitted to cells a, and b are the held-out cells. A direction of the effects of a counts
    where the effects of b go along it too, by more than four standard errors: as many independent programs at
    least are moved by the perturbations.

    Attributes:
        n_groups: Groups with cells on both sides.
        error: Squared error of the program's effects over the sampling variance of the measured ones.
        explained: Share of the effects' variance that the program explains, sampling noise left out.
        coverage_50: Share of held-out profiles inside the 50 % interval of what the discrepancy expects.
        coverage_80: The same of the 80 % interval.
        coverage_95: The same of the 95 % interval.
        directions: Number of independent directions of the effects that both halves show.
    """

    n_groups: float
    error: float
    explained: float
    coverage_50: float
    coverage_80: float
    coverage_95: float
    directions: float

    @classmethod
    def of(
        cls,
        m: Float[np.ndarray, "group gene"],
        y_a: Float[np.ndarray, "group gene"],
        y_b: Float[np.ndarray, "group gene"],
        v_a: Float[np.ndarray, "group gene"],
        v_b: Float[np.ndarray, "group gene"],
        expected: Float[np.ndarray, "group gene"],
        control: Int[np.ndarray, " group"],
        both: Bool[np.ndarray, " group"],
    ) -> HeldOut:
        """Compares the sides.

        Args:
            m: The program's profiles.
            y_a: Profiles of the cells of the fit.
            y_b: Profiles of the held-out cells.
            v_a: Sampling variances of the first.
            v_b: Sampling variances of the second.
            expected: Variance of ``m - y_b`` by the discrepancy.
            control: The group of each group's controls; -1 for none.
            both: Groups with cells on both sides.
        """
        z = np.abs(m - y_b)[both] / np.sqrt(expected[both])
        at_50, at_80, at_95 = (float((z <= ndtri((1 + one) / 2)).mean()) for one in NOMINAL)
        covered = (at_50, at_80, at_95)
        perturbed = np.flatnonzero(both & (control >= 0) & (control != np.arange(len(both))))
        perturbed = perturbed[both[control[perturbed]]]
        if not len(perturbed):
            return cls(float(both.sum()), np.nan, np.nan, *covered, np.nan)
        c = control[perturbed]
        of_m, of_a, of_b = (x[perturbed] - x[c] for x in (m, y_a, y_b))
        noise_a, noise = (v[perturbed] + v[c] for v in (v_a, v_b))
        missed, size = ((of_m - of_b) ** 2).mean(), (of_b**2).mean()
        signal = max(size - noise.mean(), 1e-12)
        explained = 1 - max(missed - noise.mean(), 0.0) / signal
        found = _directions(of_a / np.sqrt(noise_a), of_b / np.sqrt(noise))
        return cls(float(both.sum()), float(missed / noise.mean()), float(explained), *covered, found)


def _directions(a: Float[np.ndarray, "group gene"], b: Float[np.ndarray, "group gene"]) -> float:
    """Number of leading directions of one half's effects, in units of their noise, that the other shows."""
    u, _, v = np.linalg.svd(a, full_matrices=False)
    along = np.einsum("gk,gx,kx->k", u, b, v)  # of noise alone: variance one, but for what controls share
    shown = along > _SURE
    return float(len(shown) if shown.all() else np.argmin(shown))
