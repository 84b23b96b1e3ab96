"""Effects as tables and pictures: numbers by hand, and labels found whatever the order of their parts."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.text import Text

import pyro_citevae as cv
from pyro_citevae.data import Schema
from pyro_citevae.data.interventions import Dose
from pyro_citevae.errors import DataError
from pyro_citevae.infer.effect import Effect

GENES = ("zeta", "alpha", "mid")
LABELS = ["MYC+STAT1", "A@6*0.5+B@24", "GATA1"]
COLUMNS = ["perturbation", "time", "gene", "mean", "lower", "upper", "p_positive", "p_beyond", "lfsr"]


def effect_of(draws: np.ndarray, genes: tuple[str, ...] = GENES, **options: object) -> Effect:
    """An effect of the first of the labels, at the first of the times, with these draws."""
    schema = Schema(
        genes=genes,
        tokens=("A", "B", "GATA1", "MYC", "STAT1", "T0", "T1", "T2", "T3"),
        control="ctrl",
        times=(24.0, 48.0),
        step=24.0,
        time_unit="hour",
        **options,  # type: ignore[arg-type]
    )
    labels = [*LABELS, "T0", "T1", "T2", "T3"][: draws.shape[2]]
    return Effect.of(draws, [cv.do(one) for one in labels], [24.0, 48.0][: draws.shape[3]], schema, cv.do())


@pytest.fixture(scope="module")
def effect() -> Effect:
    """Two chains of five draws; what stands at a place says which place it is."""
    rng = np.random.default_rng(0)
    return effect_of(rng.normal(0.0, 0.3, (2, 5, 3, 2, 3)) + np.arange(18).reshape(3, 2, 3))


class TestTable:
    """A row for each perturbation, time and gene."""

    def test_each_number_is_that_of_the_draws(self) -> None:
        draws = np.array([0.3, -0.05, 0.0, 0.2, -0.4, 0.1, 0.0, 0.6])  # of two chains
        row = effect_of(draws.reshape(2, 4, 1, 1, 1), ("g",)).table(0.5, 0.1).iloc[0]
        assert row["mean"] == pytest.approx(0.75 / 8)
        assert (row["lower"], row["upper"]) == pytest.approx((-0.0125, 0.225))
        assert row["p_positive"] == 4 / 8  # neither of the zeros
        assert row["p_beyond"] == 4 / 8  # 0.1 is not beyond 0.1
        assert row["lfsr"] == 4 / 8  # of P(<= 0) = 4/8 and P(>= 0) = 6/8

    @pytest.mark.parametrize(
        ("draws", "lfsr"),
        [
            ([1.0, 2.0, 3.0, 4.0], 0.0),
            ([-1.0, -2.0, -3.0, -4.0], 0.0),
            ([1.0, 2.0, 3.0, -4.0], 0.25),
            ([1.0, 2.0, 0.0, -4.0], 0.5),
            ([0.0, 0.0, 0.0, 0.0], 1.0),
            ([np.nan, np.nan, np.nan, np.nan], 1.0),
        ],
    )
    def test_the_false_sign_rate_counts_zeros_against_both_signs(
        self, draws: list[float], lfsr: float
    ) -> None:
        assert effect_of(np.reshape(draws, (1, 4, 1, 1, 1)), ("g",)).table()["lfsr"].tolist() == [lfsr]

    def test_rows_lie_in_the_order_of_the_coordinates(self, effect: Effect) -> None:
        table = effect.table()
        assert list(table.columns) == COLUMNS
        wanted = pd.MultiIndex.from_product([LABELS, [24.0, 48.0], GENES]).to_frame(index=False)
        assert (table[COLUMNS[:3]].to_numpy() == wanted.to_numpy()).all()
        assert table["mean"].round().tolist() == list(range(18))
        assert table.index.tolist() == list(range(18))

    def test_intervals_are_those_of_interval(self, effect: Effect) -> None:
        bounds = effect.interval(0.8)
        table = effect.table(0.8)
        for name in ("lower", "upper"):
            np.testing.assert_allclose(table[name], bounds.sel(bound=name).to_numpy().ravel())

    @pytest.mark.parametrize(
        "chosen",
        [
            lambda one: one.sel(perturbation=["GATA1"]),
            lambda one: one.sel(perturbation="STAT1+MYC"),
            lambda one: one.isel(time=1),
            lambda one: one.sel(gene="alpha"),
            lambda one: one.sel(perturbation="GATA1", time=24.0, gene=["mid", "zeta"]),
            lambda one: one.sel(perturbation="GATA1", time=24.0, gene="mid"),
            lambda one: one.transpose("gene", "draw", "time", "chain", "perturbation"),
        ],
    )
    def test_what_is_chosen_keeps_its_rows(self, effect: Effect, chosen: Callable[[Effect], Effect]) -> None:
        few = chosen(effect)
        table = few.table()
        keys = [np.atleast_1d(few[name].to_numpy()) for name in COLUMNS[:3]]
        wanted = effect.table().set_index(COLUMNS[:3]).loc[pd.MultiIndex.from_product(keys)]
        pd.testing.assert_frame_equal(table[COLUMNS[3:]], wanted.reset_index(drop=True))
        assert (table[COLUMNS[:3]].to_numpy() == np.array(wanted.index.tolist(), dtype=object)).all()

    def test_one_chain_is_asked_alone(self, effect: Effect) -> None:
        one = effect.isel(chain=1)
        np.testing.assert_allclose(one.table()["mean"], effect.to_numpy()[1].mean(0).ravel())

    @pytest.mark.parametrize("probability", [0.0, 1.0, -0.1, 90])
    def test_a_probability_is_between_0_and_1(self, effect: Effect, probability: float) -> None:
        with pytest.raises(DataError, match=rf"table\(probability={probability}\) is not between 0 and 1"):
            effect.table(probability)

    def test_a_threshold_is_a_size(self, effect: Effect) -> None:
        with pytest.raises(DataError, match=r"table\(threshold=-0.1\) is negative; give a size"):
            effect.table(threshold=-0.1)

    @pytest.mark.parametrize("name", ["probability", "threshold"])
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), True, "much"])
    def test_what_is_no_finite_number_is_told(self, effect: Effect, name: str, value: Any) -> None:
        with pytest.raises(DataError, match=rf"table\({name}=\.\.\.\) is .*, which is no finite number"):
            effect.table(**{name: value})

    def test_numbers_are_of_any_usual_kind(self, effect: Effect) -> None:
        assert effect.table(np.float32(0.5), np.int64(1)).equals(effect.table("0.5", 1.0))

    @pytest.mark.parametrize(
        "spoilt",
        [
            lambda one: one.mean(("chain", "draw")),
            lambda one: one.mean("gene"),
            lambda one: one.isel(time=0, drop=True),
            lambda one: one.expand_dims("batch"),
            lambda one: one.sel(perturbation=xr.DataArray(["GATA1", "STAT1+MYC"], dims="pair")),
        ],
    )
    def test_lost_draws_or_axes_are_told(self, effect: Effect, spoilt: Callable[[Effect], Effect]) -> None:
        with pytest.raises(DataError, match=r"the effect has dims \(.*needs draws of each perturbation"):
            spoilt(effect).table()


class TestSelection:
    """``sel`` finds a combination whatever the order of its members."""

    @pytest.mark.parametrize("label", ["MYC+STAT1", "STAT1+MYC", " STAT1 + MYC", "STAT1@0+MYC*1"])
    def test_members_may_be_in_any_order(self, effect: Effect, label: str) -> None:
        found = effect.sel(perturbation=label)
        assert isinstance(found, Effect)
        assert found.identical(effect.isel(perturbation=0))

    def test_doses_are_told_apart(self, effect: Effect) -> None:
        assert effect.sel(perturbation="B@24+A@6*0.5").identical(effect.isel(perturbation=1))
        with pytest.raises(DataError):
            effect.sel(perturbation="B@24+A@6")

    @pytest.mark.parametrize(
        "kind", [list, np.array, pd.Index, lambda labels: np.array(labels, dtype=object)]
    )
    def test_lists_of_labels(self, effect: Effect, kind: Callable[[list[str]], object]) -> None:
        found = effect.sel(perturbation=kind(["GATA1", "STAT1+MYC"]))
        assert found.identical(effect.isel(perturbation=[2, 0]))

    def test_labels_with_a_dim_of_their_own(self, effect: Effect) -> None:
        labels = xr.DataArray(["STAT1+MYC", "GATA1"], dims="pair")
        assert effect.sel(perturbation=labels).dims == ("chain", "draw", "pair", "time", "gene")
        again = effect.sel(perturbation=effect.perturbation)
        assert again.perturbation.to_numpy().tolist() == LABELS

    def test_an_exact_label_comes_first(self) -> None:
        effect = effect_of(np.zeros((1, 2, 2, 1, 3)))
        renamed = effect.assign_coords(perturbation=["STAT1+MYC", "MYC+STAT1"])
        assert str(renamed.sel(perturbation="STAT1+MYC").perturbation.values) == "STAT1+MYC"

    def test_a_name_that_looks_like_a_schedule_is_one_name(self) -> None:
        schema = Schema(genes=GENES, tokens=("HLA-DRB1*15",))
        effect = Effect.of(
            np.zeros((1, 2, 1, 1, 3)), [cv.data.Schedule((Dose("HLA-DRB1*15"),))], [1.0], schema, cv.do()
        )
        assert effect.sel(perturbation="HLA-DRB1*15").identical(effect.isel(perturbation=0))

    def test_the_control_is_called_as_in_the_data(self, effect: Effect) -> None:
        assert effect.attrs["control"] == "ctrl"
        assert effect.sel(perturbation="ctrl+GATA1").identical(effect.isel(perturbation=2))

    def test_other_indexers_are_as_in_xarray(self, effect: Effect) -> None:
        plain = xr.DataArray(effect)
        assert effect.sel(gene="alpha", drop=True).equals(plain.sel(gene="alpha", drop=True))
        assert effect.sel(time=30.0, method="nearest").equals(plain.sel(time=24.0))
        assert effect.sel({"time": [47.0]}, "nearest", 2.0).equals(plain.sel(time=[48.0]))
        assert effect.sel(time=slice(30, None)).equals(plain.sel(time=slice(30, None)))
        assert effect.sel(perturbation=slice("A@6*0.5+B@24", None)).sizes["perturbation"] == 2
        with pytest.raises(KeyError):
            effect.sel(gene="nowhere")
        with pytest.raises(KeyError):
            effect.sel(time=30.0, method="nearest", tolerance=1.0)
        with pytest.raises(ValueError, match="both keyword and positional"):
            effect.sel({"time": 24.0}, gene="mid")

    def test_inexact_times_beside_a_combination(self, effect: Effect) -> None:
        found = effect.sel({"perturbation": "STAT1+MYC", "time": 30.0}, method="nearest", drop=True)
        assert found.identical(effect.isel(perturbation=0, time=0, drop=True))
        assert effect.loc[{"perturbation": "STAT1+MYC"}].identical(effect.isel(perturbation=0))

    @pytest.mark.parametrize(
        ("asked", "phrase"),
        [
            ("STAT2+MYC", r"perturbation='STAT2\+MYC'\) is not in the effect; the nearest are MYC\+STAT1"),
            ("gata", r"perturbation='gata'\) is not in the effect; the nearest are GATA1, and posterior"),
            (["GATA1", "zzz"], r"perturbation='zzz'\) .* MYC\+STAT1, A@6\*0.5\+B@24, GATA1, and posterior"),
            ("MYC+MYC", r"perturbation='MYC\+MYC'\) is not in the effect; the nearest are MYC\+STAT1"),
            ("MYC@now", r"perturbation='MYC@now'\) is not in the effect"),
        ],
    )
    def test_an_unknown_label_is_answered_with_the_nearest(
        self, effect: Effect, asked: object, phrase: str
    ) -> None:
        with pytest.raises(DataError, match=phrase):
            effect.sel(perturbation=asked)


class TestVolcano:
    """The picture says what it shows, and names what is strongest."""

    @pytest.fixture(scope="class")
    def strong(self) -> Effect:
        """Forty genes, of which some move surely, at a floor that many share."""
        rng = np.random.default_rng(1)
        size = np.where(np.arange(40) < 14, np.linspace(1.5, 0.2, 40) * rng.choice([-1, 1], 40), 0.0)
        values = size + rng.normal(0, 0.06, (2, 50, 3, 2, 40))
        values[..., 7] += 5.0  # the strongest
        return effect_of(values, tuple(f"GENE{g}" for g in range(40)))

    @staticmethod
    def names(figure: Figure) -> list[list[str]]:
        return [[note.get_text() for note in axis.texts] for axis in figure.axes]

    def test_axes_say_what_they_show(self, strong: Effect) -> None:
        figure = strong.plot_volcano()
        assert [axis.get_title() for axis in figure.axes] == [f"{label}, hour 48" for label in LABELS]
        assert figure.axes[0].get_xlabel() == "mean change of log(1 + count)"
        assert "local false sign rate" in figure.axes[0].get_ylabel()
        assert "floor: 1 / 100 draws" in figure.axes[0].get_ylabel()
        legend = [text.get_text() for text in figure.legends[0].get_texts()]
        assert "|effect| = 0.1, rate = 0.05" in legend

    def test_points_are_those_of_the_table_above_the_floor(self, strong: Effect) -> None:
        axis = strong.plot_volcano("STAT1+MYC", time=24.0).axes[0]
        table = strong.sel(perturbation="MYC+STAT1", time=24.0).table()
        shown = np.concatenate([group.get_offsets() for group in axis.collections])
        wanted = np.stack([table["mean"], -np.log10(np.maximum(table["lfsr"], 1 / 100))], axis=1)
        np.testing.assert_allclose(shown[np.argsort(shown[:, 0])], wanted[np.argsort(wanted[:, 0])])
        assert shown[:, 1].max() == pytest.approx(2.0)

    def test_colour_means_beyond_both_lines(self, strong: Effect) -> None:
        axis = strong.plot_volcano("GATA1", threshold=0.5).axes[0]
        groups = [group for group in axis.collections if len(group.get_offsets())]
        shown = np.concatenate([group.get_offsets() for group in groups])
        colours = np.concatenate(
            [group.get_facecolors().repeat(len(group.get_offsets()), 0) for group in groups]
        )
        grey = np.ptp(colours[:, :3], axis=1) < 1e-6
        beyond = (np.abs(shown[:, 0]) > 0.5) & (shown[:, 1] >= -np.log10(0.05))
        assert np.array_equal(grey, ~beyond)
        assert beyond.any() and grey.any()
        lines = sorted(float(line.get_xdata()[0]) for line in axis.lines[:2])
        assert lines == [-0.5, 0.5]

    def test_the_strongest_gene_is_named(self, strong: Effect) -> None:
        assert all("GENE7" in names for names in self.names(strong.plot_volcano()))
        assert self.names(strong.plot_volcano(most_named=1)) == [["GENE7"]] * 3
        assert self.names(strong.plot_volcano(most_named=0)) == [[]] * 3
        assert self.names(strong.plot_volcano(threshold=10.0)) == [[]] * 3

    def test_names_do_not_overlap(self, strong: Effect) -> None:
        figure = strong.plot_volcano(most_named=14)
        figure.draw_without_rendering()
        for axis in figure.axes:
            boxes = [Text.get_window_extent(note) for note in axis.texts]  # without the leading lines
            assert len(boxes) > 5
            assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))

    def test_few_draws_are_sure_of_nothing(self) -> None:
        """Three draws of one sign are a rate of a third at best, not of zero."""
        sure = effect_of(np.ones((1, 3, 1, 1, 3)))
        assert sure.table()["lfsr"].eq(0).all()
        assert self.names(sure.plot_volcano()) == [[]]

    def test_real_values_have_no_unit_of_counts(self) -> None:
        figure = effect_of(np.ones((1, 30, 1, 1, 3)), values="real").plot_volcano()
        assert figure.axes[0].get_xlabel() == "mean effect (unit of the values)"

    def test_a_chosen_effect_is_drawn(self, strong: Effect, tmp_path: object) -> None:
        one = strong.sel(perturbation="STAT1+MYC", time=24.0)
        for figure in (one.plot_volcano(), one.plot_volcano("STAT1+MYC", time=24)):
            assert figure.axes[0].get_title() == "MYC+STAT1, hour 24"
            figure.savefig(f"{tmp_path}/volcano.png")

    @pytest.mark.parametrize(
        ("asked", "phrase"),
        [
            ({}, "has 7 perturbations to show, and 1 to 6 fit; name some, as in perturbation=['MYC+STAT1', "),
            ({"perturbation": []}, "has 0 perturbations to show"),
            ({"perturbation": "GATA2"}, "perturbation='GATA2') is not in the effect; the nearest are GATA1"),
            ({"perturbation": "GATA1", "time": 25.0}, "(time=25.0) is not among the effect's times 24, 48;"),
            ({"perturbation": [3]}, "plot_volcano(perturbation=...) holds 3, which is no name"),
            ({"perturbation": "GATA1", "time": "noon"}, "plot_volcano(time=...) is 'noon'"),
            ({"perturbation": "GATA1", "most_named": 1.5}, "plot_volcano(most_named=...) is 1.5"),
            ({"perturbation": "GATA1", "threshold": -1}, "(threshold=-1) is negative"),
            ({"perturbation": "GATA1", "probability": 2}, "(probability=2) is not between 0 and 1"),
        ],
    )
    def test_bad_input_is_told(self, asked: dict, phrase: str) -> None:
        many = effect_of(np.zeros((1, 2, 7, 2, 3)))
        with pytest.raises(DataError, match=re.escape(phrase)):
            many.plot_volcano(**asked)
