"""What the files hold, whichever ArviZ opens them."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["CELLS", "DRAWS", "GENES", "require_contents"]

DRAWS, CELLS, GENES = 200, 15, 6
SAMPLED = {"chain": 1, "draw": DRAWS}
OBSERVED = {"cell": CELLS, "gene": GENES}
DIMS = {
    ("posterior", "W"): {**SAMPLED, "lag": 1, "program": 2, "source": 2},
    ("posterior", "c"): {**SAMPLED, "token": 2, "own": 1},
    ("posterior", "s"): {**SAMPLED, "cell": CELLS, "invariant": 1},
    ("posterior", "z"): {**SAMPLED, "cell": CELLS, "time": 4, "program": 2},
    ("prior", "W"): {**SAMPLED, "lag": 1, "program": 2, "source": 2},
    ("prior", "c"): {**SAMPLED, "token": 2, "own": 1},
    ("posterior_predictive", "x"): {**SAMPLED, **OBSERVED},
    ("prior_predictive", "x"): {**SAMPLED, **OBSERVED},
    ("log_likelihood", "x"): {**SAMPLED, **OBSERVED},
    ("observed_data", "x"): OBSERVED,
}


def require_contents(opened: Any, truth: dict[str, np.ndarray]) -> None:
    """Dims (those of size one too), names along them, integer counts, values and attributes."""
    for (group, name), sizes in DIMS.items():
        assert dict(opened[group][name].sizes) == sizes, (group, name)
    for group in ("observed_data", "posterior_predictive", "prior_predictive"):
        assert opened[group]["x"].dtype == np.int32, group
        assert opened[group]["x"].cell.to_numpy().tolist() == truth["cells"].tolist()
        assert opened[group]["x"].gene.to_numpy().tolist() == truth["genes"].tolist()
    assert opened["log_likelihood"]["x"].dtype == np.float64
    assert opened["posterior"]["a"].token.to_numpy().tolist() == truth["tokens"].tolist()
    assert opened["posterior"]["z"].time.to_numpy().tolist() == [0.0, 1.0, 2.0, 3.0]
    np.testing.assert_array_equal(opened["observed_data"]["x"], truth["x"])
    for group, name in [("posterior", "z"), ("prior", "a"), ("posterior_predictive", "x")]:
        np.testing.assert_array_equal(opened[group][name], truth[f"{group}_{name}"])
    assert opened.attrs["inference_library"] == "pyro_citevae"
    assert opened.attrs["model"].endswith(":CiteVAE")
