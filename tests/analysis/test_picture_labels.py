"""What is written in a picture can be read: no two texts overlap, and none leaves the figure."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from anndata import AnnData
from long_names import GENES, LABELS, calls, measurements
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

import pyro_citevae as cv
from pyro_citevae.analysis import plots
from pyro_citevae.analysis.figure_style import shortened
from pyro_citevae.infer.effect import Effect
from pyro_citevae.placed_names import place_names

Written = Callable[[Figure, int], list[tuple[str, Bbox]]]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Written:
    """The texts that a figure draws at a resolution, each with its box."""
    found: list[tuple[str, Bbox]] = []
    draw = Text.draw

    def noted(text: Text, renderer: object, *given: object, **options: object) -> None:
        if text.get_visible() and text.get_text().strip():
            found.append((text.get_text(), Text.get_window_extent(text)))  # without the line of a note
        draw(text, renderer, *given, **options)

    def of(figure: Figure, dpi: int) -> list[tuple[str, Bbox]]:
        figure.set_dpi(dpi)
        figure.draw_without_rendering()  # settles the layout, and writes
        found.clear()
        figure.draw_without_rendering()
        return list(found)

    monkeypatch.setattr(Text, "draw", noted)
    return of


def overlapping(texts: list[tuple[str, Bbox]]) -> list[tuple[str, str]]:
    """Pairs of texts that share more than a hair of a pixel."""
    shrunk = [(said, box.padded(-0.25)) for said, box in texts]
    return [(one, other) for (one, a), (other, b) in combinations(shrunk, 2) if a.overlaps(b)]


def outside(figure: Figure, texts: list[tuple[str, Bbox]]) -> list[str]:
    """Texts that leave the figure by more than a pixel."""
    whole = figure.bbox.padded(1)
    return [
        said
        for said, box in texts
        if not (whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 and box.y1 <= whole.y1)
    ]


@pytest.mark.parametrize("dpi", [72, 130])
@pytest.mark.parametrize("name", sorted(calls()))
def test_no_two_texts_overlap_and_none_leaves_the_figure(name: str, dpi: int, written: Written) -> None:
    draw, given, options = calls()[name]
    figure = draw(*given, **options)
    texts = written(figure, dpi)
    assert len(texts) > 3
    assert not overlapping(texts)
    assert not outside(figure, texts)


def test_such_a_test_finds_an_overlap(written: Written) -> None:
    figure = Figure()
    figure.text(0.5, 0.5, "one"), figure.text(0.51, 0.5, "two"), figure.text(0.99, 0.9, "three")
    texts = written(figure, 100)
    assert overlapping(texts) == [("one", "two")]
    assert outside(figure, texts) == ["three"]


def test_the_largest_effect_is_named_even_where_all_lie_at_one_place() -> None:
    predicted, measured = calls()["effects"][1]
    for axis, one in zip(plots.effects(predicted, measured).axes, measured, strict=False):
        assert GENES[int(np.argmax(np.abs(one.delta)))] in [text.get_text() for text in axis.texts]


def test_names_leave_the_legend_free(written: Written) -> None:
    figure = Figure(figsize=(3, 3))
    axis = figure.subplots()
    where = np.random.default_rng(0).random((30, 2))
    axis.plot(*where.T, "o", label="a legend in the middle of the points")
    axis.legend(loc="center")
    place_names(axis, where, [f"gene {i}" for i in range(30)], where)
    assert len(axis.texts) > 1
    assert not overlapping(written(figure, 100))


def test_a_long_name_is_shortened_and_keeps_both_ends() -> None:
    predicted, _ = calls()["effects"][1]
    axis = plots.effects(predicted, measurements(np.random.default_rng(0), 1)).axes[0]
    shown = axis.get_title().split("   ")[0]
    assert len(shown) < len(LABELS[0])
    start, end = shown.split("…")
    assert LABELS[0].startswith(start)
    assert LABELS[0].endswith(end)


def test_a_name_with_dollars_is_no_formula() -> None:
    """Half a formula cannot be drawn, and a whole one hides the name."""
    hostile = "x$_{$y"
    draws = np.random.default_rng(0).normal(3.0, 0.1, (1, 200, 1, 1, 2))
    effect = Effect.of(draws, [cv.do("A")], [1.0], _schema(hostile), cv.do())
    picture = plots.volcano(effect)
    picture.draw_without_rendering()
    shown = [one.get_text().replace("\\", "") for one in picture.findobj(Text)]
    assert hostile in shown
    assert shortened("a$b$") == r"a\$b\$"


def _schema(gene: str) -> cv.Schema:
    adata = AnnData(X=np.ones((4, 2), dtype=np.float32))
    adata.var_names = [gene, "other"]
    adata.obs["perturbation"] = ["control", "A"] * 2
    return cv.Trajectories.from_anndata(adata).schema
