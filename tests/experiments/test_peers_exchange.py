"""What adapters of peers share: reading what is given, controls of an asked row, and writing cells whole."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

PEERS = Path(__file__).parents[2] / "experiments/peers"


@pytest.fixture
def exchange(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script, as an adapter imports it."""
    monkeypatch.syspath_prepend(str(PEERS))
    import exchange

    yield exchange
    sys.modules.pop("exchange", None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A task: two genes seen alone, a pair and an unseen gene asked, at a day that training lacks."""
    rng = np.random.default_rng(0)
    labels, days = np.repeat(["control", "A", "B"], 20), np.tile([1.0, 2.0], 30)
    obs = pd.DataFrame({"perturbation": labels, "context": "all", "time": days, "batch": "0"})
    obs.index = [f"cell_{i}" for i in range(len(obs))]
    x = sparse.csr_matrix(rng.poisson(3.0, (len(obs), 5)).astype(np.float32))
    var = pd.DataFrame(index=[f"gene_{i}" for i in range(5)])
    anndata.AnnData(x, obs=obs, var=var).write_h5ad(tmp_path / "train.h5ad")
    ask = pd.DataFrame({"perturbation": ["A+B", "C", "control"], "context": "all", "time": 3.0, "n_cells": 4})
    ask.to_csv(tmp_path / "ask.csv", index=False)
    genes = pd.DataFrame(np.eye(3), index=pd.Index(["A", "B", "C"], name="gene"), columns=["u", "v", "w"])
    genes.to_parquet(tmp_path / "genes.parquet")
    (tmp_path / "task.json").write_text(json.dumps({"has_times": True, "has_contexts": False}))
    return tmp_path


def test_a_pair_of_seen_genes_is_unseen_but_its_genes_are_not(exchange: ModuleType, folder: Path) -> None:
    given = exchange.read_given(folder)
    assert given.unseen == ["A+B", "C"]
    assert given.unseen_genes == ["C"]


def test_a_pair_is_the_sum_of_its_genes_and_the_control_is_zero(exchange: ModuleType, folder: Path) -> None:
    table = exchange.read_given(folder).embeddings()
    assert table.loc["A+B"].tolist() == [1.0, 1.0, 0.0]
    assert not table.loc["control"].any()


def test_cells_are_scaled_to_their_median_total(exchange: ModuleType, folder: Path) -> None:
    given = exchange.read_given(folder)
    totals = np.expm1(given.log1p.toarray()).sum(1)
    np.testing.assert_allclose(totals, given.target_sum, rtol=1e-5)  # single precision


def test_a_peer_without_time_has_the_last_day_and_is_asked_no_control(
    exchange: ModuleType, folder: Path
) -> None:
    given = exchange.read_given(folder)
    last, said = given.without_time()
    assert given.asks_new_times
    assert set(last.train.obs["time"]) == {2.0}
    assert list(last.ask["perturbation"]) == ["A+B", "C"]
    assert "the last training day" in said


def test_a_peer_without_time_has_everything_where_no_new_time_is_asked(
    exchange: ModuleType, folder: Path
) -> None:
    given = exchange.read_given(folder)
    given.ask["time"] = 2.0
    assert given.without_time() == (given, "")


def test_a_lone_cell_of_its_perturbation_is_found(exchange: ModuleType, folder: Path) -> None:
    given = exchange.read_given(folder)
    given.train.obs["perturbation"] = ["C", *given.train.obs["perturbation"].astype(str)[1:]]
    assert np.flatnonzero(~given.of_several_cells()).tolist() == [0]


@pytest.mark.parametrize(("ours", "theirs"), [("control", "ctrl"), ("A", "A+ctrl"), ("A+B", "A+B")])
def test_conditions_are_named_as_gears_and_scouter_read_them(
    exchange: ModuleType, ours: str, theirs: str
) -> None:
    assert exchange.condition(ours) == theirs


def test_controls_are_of_the_asked_time_and_else_of_the_context(exchange: ModuleType, folder: Path) -> None:
    given = exchange.read_given(folder)
    assert set(given.train.obs["time"].iloc[given.controls("all", 1.0)]) == {1.0}
    for context in ("all", "never seen"):
        assert set(given.train.obs["perturbation"].iloc[given.controls(context, 3.0)]) == {"control"}
        assert len(given.controls(context, 3.0)) == 20


def test_values_below_zero_are_taken_from_the_others_of_the_gene(exchange: ModuleType) -> None:
    moved = np.array([[-1.0, 0.5, -1.0], [3.0, 0.5, 0.5]])
    cells = exchange.none_negative(moved)
    assert cells.min() == 0.0
    np.testing.assert_allclose(cells.mean(0), np.maximum(moved.mean(0), 0.0))


def test_a_refusal_is_an_exit_with_its_reason(
    exchange: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        exchange.refuse("it knows no contexts")
    assert ended.value.code == 3
    assert capsys.readouterr().err == "it knows no contexts\n"


def test_cells_are_written_whole_under_their_rows(exchange: ModuleType, folder: Path) -> None:
    given = exchange.read_given(folder)
    groups = [np.full((n, 5), value) for n, value in ((2, 0.5), (3, 1.0), (1, 0.0))]
    out = folder / "out.h5ad"
    exchange.write_cells(out, given, groups, package="numpy", steps=7, unit="epochs", settings="none")
    cells = anndata.read_h5ad(out)
    assert list(cells.obs["perturbation"]) == ["A+B"] * 2 + ["C"] * 3 + ["control"]
    assert list(cells.var_names) == list(given.train.var_names)
    assert cells.uns["peer"]["steps"] == 7
    assert cells.uns["peer"]["version"] == np.__version__
    assert not list(folder.glob(".*"))
