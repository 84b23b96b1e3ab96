"""How far groups lie from a program: three scales, learnt from cells that the fit has not seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.special import expit

from pyro_citevae.data.groups import Groups

__all__ = ["Scales", "independent"]

# chosen on the development screens of experiments/calibration
_PRIOR_MEAN, _PRIOR_SCALE = np.array([-1.0, 0.34, 0.6]), np.array([1.0, 1.0, 0.4])
_TEMPER = 0.3  # residuals of a group are correlated along more genes than their noise shows


@final
@dataclass(frozen=True)
class Scales:
    """How far groups lie from a program: the hyperparameters of a discrepancy.

    Attributes:
        carried: Share kappa of the noise of its training cells that a program carries.
        size: alpha at a gene of middling noise, over the sampling variance of the training cells there.
        growth: Power nu by which alpha grows with a gene's noise.
        n_effective: Number of independent residuals that these were learnt from.
    """

    carried: float
    size: float
    growth: float
    n_effective: float

    @classmethod
    def learnt(
        cls,
        r: Float[np.ndarray, "group gene"],
        s: Float[np.ndarray, "group gene"],
        v_a: Float[np.ndarray, "group gene"],
        v_b: Float[np.ndarray, "group gene"],
        noise: Float[np.ndarray, "group gene"],
    ) -> Scales:
        """By maximum a posteriori, from ``r = m - y^b`` and ``s = y^a - y^b``, which are normal.

        ::

            var(r) = alpha + kappa^2 v_a + v_b      cov(r, s) = kappa v_a + v_b      var(s) = v_a + v_b

        Args:
            r: The program less the held-out cells.
            s: The training cells less the held-out ones.
            v_a: Sampling variance of the training cells.
            v_b: Sampling variance of the held-out cells.
            noise: Log of a gene's noise.
        """
        typical = np.exp(np.log(v_a).mean())
        n_effective = _TEMPER * independent(r / np.sqrt(v_a + v_b))
        weight = n_effective / r.size

        def loss(x: np.ndarray) -> float:
            kappa, alpha = expit(x[0]), typical * np.exp(np.clip(x[1] + x[2] * noise, -30, 30))
            of_r, both, of_s = alpha + kappa**2 * v_a + v_b, kappa * v_a + v_b, v_a + v_b
            determinant = of_r * of_s - both**2
            square = (of_s * r**2 - 2 * both * r * s + of_r * s**2) / determinant
            prior = (((x - _PRIOR_MEAN) / _PRIOR_SCALE) ** 2).sum()
            return float((weight * (np.log(determinant) + square).sum() + prior) / 2)

        found = minimize(loss, _PRIOR_MEAN, method="L-BFGS-B", bounds=[(-6, 4), (-8, 8), (-1, 3)])
        kappa, log_size, growth = found.x
        return cls(float(expit(kappa)), float(np.exp(log_size)), float(growth), float(n_effective))

    def alpha(
        self, typical: float, noise: Float[np.ndarray, "group gene"]
    ) -> Float[np.ndarray, "group gene"]:
        """Variance of the structural errors.

        Args:
            typical: Sampling variance of the training cells at a gene of middling noise.
            noise: Log of a gene's noise, zero at such a gene.
        """
        return np.asarray(self.size * typical * np.exp(self.growth * noise))

    def kappa(self, of_fit: Groups) -> Float[np.ndarray, "group 1"]:
        """Share of its training cells' noise that a program carries; nothing where a group has none.

        Args:
            of_fit: The cells that the program was fitted to.
        """
        return np.where(of_fit.n > 0, self.carried, 0.0)[:, None]


def independent(z: Float[np.ndarray, "group gene"]) -> float:
    """How many independent values a table of correlated genes is worth: groups times participating axes."""
    n_groups, n_genes = z.shape
    trace = float((z**2).sum() / n_groups)
    squared = float(((z @ z.T) ** 2).sum() / n_groups**2)
    corrected = (squared - trace**2 / n_groups) / (1 + 1 / n_groups)
    axes = trace**2 / max(corrected, trace**2 / min(4 * n_groups, n_genes))
    return n_groups * min(axes, n_genes)
