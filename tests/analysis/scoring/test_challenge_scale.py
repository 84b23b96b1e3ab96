"""The challenge's scale: its two ends, and scores between them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import pyro_citevae as cv
from pyro_citevae.analysis import (
    TechnicalDuplicate,
    challenge_scale,
    challenge_scaled,
    challenge_scores,
)
from pyro_citevae.analysis.scoring.tables import means
from pyro_citevae.data.cell_eval2_files import cells_for_cell_eval2
from pyro_citevae.errors import CiteVAEWarning

cell_eval2 = pytest.importorskip("cell_eval2")
from cell_eval2.competition import competition_members  # noqa: E402

MEMBERS = [f"cell_eval2_{one}" for one in competition_members()]
ENDS = {
    "pds_cosine": (0.5, 0.9),
    "expr_mse_unbiased_capped_norm": (1.0, 0.0),
    "de_wilcoxon_direction_fidelity_yield_raw": (0.5, 0.9),
    "de_wilcoxon_direction_reach_raw": (0.1, 0.9),
    "de_wilcoxon_sig_jaccard": (0.0, 0.4),
    "de_wilcoxon_lfc_nmae": (1.0, 0.4),
}


@pytest.fixture(scope="module")
def data() -> cv.Trajectories:
    options = {"n_genes": 60, "n_perturbations": 6, "n_steps": 1, "effect": 3.0, "seed": 3}
    return cv.simulate(n_cells=1400, **options).data


@pytest.fixture(scope="module")
def scale(data: cv.Trajectories) -> pd.DataFrame:
    return challenge_scale(data, 1.0)


def by_hand(**values: tuple[str, dict[str, float]]) -> pd.DataFrame:
    """Means over all perturbations of predictors, by metric."""
    rows = [
        ("p", "d", predictor, "ALL", 1.0, 0, 0, f"cell_eval2_{metric}", value)
        for predictor, found in values.values()
        for metric, value in found.items()
    ]
    columns = ["protocol", "dataset", "predictor", "perturbation", "time", "fold", "seed", "score", "value"]
    return pd.DataFrame(rows, columns=columns)


def ends() -> dict[str, tuple[str, dict[str, float]]]:
    return {
        "base": ("mean response", {name: b for name, (b, _) in ENDS.items()}),
        "top": ("replicate", {name: r for name, (_, r) in ENDS.items()}),
    }


def scaled(frame: pd.DataFrame, predictor: str) -> dict[str, float]:
    rows = challenge_scaled(frame)
    rows = rows[rows.predictor == predictor]
    return dict(zip(rows.score.str.removeprefix("scaled_cell_eval2_"), rows.value, strict=True))


def test_the_mean_response_is_0_and_a_replicate_is_1_on_every_score() -> None:
    frame = by_hand(**ends())
    for predictor, value in (("mean response", 0), ("replicate", 1)):
        assert scaled(frame, predictor) == pytest.approx({**dict.fromkeys(ENDS, value), "average": value})


def test_a_score_is_its_share_of_the_way_from_the_mean_response_to_a_replicate() -> None:
    model = {name: b + share * (r - b) for share, (name, (b, r)) in zip(
        (0.5, 0.25, 1.5, -0.5, 0.75, 0.1), ENDS.items(), strict=True
    )}  # fmt: skip
    found = scaled(by_hand(model=("model", model), **ends()), "model")
    assert list(found.values())[:6] == pytest.approx([0.5, 0.25, 1.5, -0.5, 0.75, 0.1])
    assert found["average"] == pytest.approx(2.6 / 6)


def test_the_challenge_bounds_the_expression_error_by_0_and_the_fold_change_error_by_minus_6() -> None:
    model = {name: r for name, (_, r) in ENDS.items()}
    model |= {"expr_mse_unbiased_capped_norm": 3.0, "de_wilcoxon_lfc_nmae": 100.0}
    found = scaled(by_hand(model=("model", model), **ends()), "model")
    assert found["expr_mse_unbiased_capped_norm"] == 0
    assert found["de_wilcoxon_lfc_nmae"] == -6


def test_without_an_end_there_is_no_scale_and_without_a_score_no_average() -> None:
    assert challenge_scaled(by_hand(base=ends()["base"])).empty
    both = ends()
    both["top"][1]["pds_cosine"] = 0.5  # no better than the mean response
    found = scaled(by_hand(**both), "replicate")
    assert set(ENDS) - set(found) == {"pds_cosine"}
    assert "average" not in found


def test_both_ends_have_every_score_of_the_challenge(scale: pd.DataFrame) -> None:
    whole = means(scale.assign(protocol="", dataset="", fold=0, seed=0), {})
    at = whole[whole.perturbation == "ALL"].pivot(index="score", columns="predictor", values="value")
    assert set(MEMBERS) <= set(at.index)
    base, top = at.loc[MEMBERS, "mean response"], at.loc[MEMBERS, "replicate"]
    assert base["cell_eval2_pds_cosine"] == pytest.approx(0.5, abs=0.1)  # one profile for all of them
    errors = ["cell_eval2_expr_mse_unbiased_capped_norm", "cell_eval2_de_wilcoxon_lfc_nmae"]
    assert (top[errors] < base[errors]).all()
    assert (top.drop(errors) > base.drop(errors)).all()


def test_the_ends_are_those_of_cell_eval2(data: cv.Trajectories, scale: pd.DataFrame) -> None:
    from dataclasses import replace

    from cell_eval2.anchor import compute_replicate_anchor

    cells = cells_for_cell_eval2(data.stored.tocsr(), data.row_labels, data.schema.genes)
    config = cell_eval2.EvalConfig.from_preset("vcc2026")
    config = replace(config, control="control", device="cpu", de=replace(config.de, backend="scanpy"))
    _, anchor = compute_replicate_anchor(cells, config=config)
    baseline = cell_eval2.build_generic_baseline(cells, config=config, allow_degenerate=True)
    whole = means(scale.assign(protocol="", dataset="", fold=0, seed=0), {})
    at = whole[whole.perturbation == "ALL"].set_index(["predictor", "score"])["value"]
    for metric, value in zip(anchor["metric"], anchor["replicate"], strict=True):
        assert at["replicate", f"cell_eval2_{metric}"] == value
    for metric in competition_members():
        assert at["mean response", f"cell_eval2_{metric}"] == pytest.approx(baseline.agg[metric][2])


def test_half_of_the_cells_scores_about_as_well_as_measuring_again(
    data: cv.Trajectories, scale: pd.DataFrame
) -> None:
    duplicate = TechnicalDuplicate(data)
    schedules = [cv.do(name) for name in data.perturbations()]
    n_cells = duplicate.scored.select("gene_0").n_cells  # as many as are measured, since calls follow power
    predicted = duplicate.predict(schedules, cells=data.controls().thinned(n_cells), draws=1, time=1)
    found = challenge_scores(predicted, duplicate.scored, 1.0, "technical duplicate")
    frame = means(pd.concat([scale, found]).assign(protocol="", dataset="", fold=0, seed=0), {})
    assert scaled(frame, "technical duplicate")["average"] == pytest.approx(1, abs=0.4)


def test_one_perturbation_has_no_mean_response_and_says_so(data: cv.Trajectories) -> None:
    one = data.rows(np.isin(data.row_labels, ["gene_0", "control"]))
    with pytest.warns(
        CiteVAEWarning, match="no mean response at 1, so that the challenge's scale is left out"
    ):
        assert challenge_scale(one, 1.0).empty
