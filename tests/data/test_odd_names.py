"""Names that no one could type, names of bytes, and names that are read two ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from named_cells import LABELS, counts_by_name, screen

from pyro_citevae.data import Trajectories, open_h5ad
from pyro_citevae.data.columns import Columns
from pyro_citevae.data.inspection import proposed
from pyro_citevae.errors import CiteVAEError, DataError


@pytest.mark.parametrize("sign", ["\x00", "\n", "\t", "\u200b", "\ufeff", "\x85"])
@pytest.mark.parametrize("column", ["perturbation", "batch", "context", "sequence"])
def test_a_name_with_a_sign_that_is_not_shown_is_refused_with_the_sign(sign: str, column: str) -> None:
    adata = screen(batch=["x"] * 12, context=["T"] * 12, sequence=list("abcdefghijkl"), time=[1.0] * 12)
    adata.obs[column] = [f"A{sign}B", *adata.obs[column][1:]]
    reading = {"time": "time"} | ({} if column == "perturbation" else {column: column})
    with pytest.raises(DataError, match="with a sign that is not shown") as error:
        Trajectories.from_anndata(adata, **reading)
    assert repr(f"A{sign}B") in str(error.value)


@pytest.mark.parametrize("axis", ["obs", "var"])
def test_a_name_of_a_cell_or_a_gene_does_not_end_within(axis: str) -> None:
    """NumPy ends a text at its last NULs, so that two cells would be one."""
    adata = screen()
    names = list(getattr(adata, axis).index)
    setattr(adata, f"{axis}_names", [names[1] + "\x00", *names[1:]])
    with pytest.raises(DataError, match=f"{axis} holds .*x00'"):
        Trajectories.from_anndata(adata)


def test_labels_of_bytes_are_what_they_say_as_in_a_file(tmp_path: Path) -> None:
    adata = screen()
    adata.obs["perturbation"] = [one.encode() for one in LABELS]
    expected = Trajectories.from_anndata(screen())
    assert Trajectories.from_anndata(adata).digest == expected.digest
    adata.write_h5ad(tmp_path / "screen.h5ad")
    assert Trajectories.from_anndata(open_h5ad(tmp_path / "screen.h5ad")).digest == expected.digest


def test_a_label_is_no_combination_where_it_is_a_name_in_quotes() -> None:
    adata = screen(('"A+B"', *LABELS[1:]))
    with pytest.raises(DataError, match=r"says 'A\+B' and, as the name of one perturbation, '\"A\+B\"'"):
        Trajectories.from_anndata(adata)
    names = Trajectories.from_anndata(adata, exclude="A+B")
    assert "A+B" in names.schema.tokens


def test_a_dose_within_a_combination_alone_is_told() -> None:
    with pytest.warns(
        UserWarning, match=r"has labels such as 'A\*0.5\+B\*2', which were read as 'B' at a dose"
    ):
        data = Trajectories.from_anndata(screen(("A*0.5+B*2", *LABELS[1:])))
    assert "A*0.5+B*2" in data.labels


@pytest.mark.parametrize("kind", [">f4", ">i4"])
def test_counts_in_the_other_byte_order_are_the_same(tmp_path: Path, kind: str) -> None:
    adata = screen()
    adata.X = adata.X.astype(kind)
    expected = counts_by_name(Trajectories.from_anndata(screen()))
    assert counts_by_name(Trajectories.from_anndata(adata)) == expected
    adata.write_h5ad(tmp_path / "screen.h5ad")
    stored = Trajectories.from_disk(tmp_path / "screen.h5ad", progress=False)
    assert counts_by_name(stored) == expected


def no_cells() -> AnnData:
    return screen(time=[1.0] * 12)[:0].copy()


def lists() -> AnnData:
    return screen(batch=pd.Series([["x"]] * 12, index=screen().obs_names))


def twice() -> AnnData:
    adata = screen(batch=["x", "y"] * 6, time=[1.0, 2.0] * 6)
    adata.obs = pd.concat([adata.obs, adata.obs], axis=1)
    return adata


@pytest.mark.parametrize("make", [no_cells, lists, twice])
def test_arguments_are_proposed_for_odd_columns_too(make: Any) -> None:
    assert isinstance(proposed(make(), Columns()), dict)


@pytest.mark.parametrize(
    ("options", "phrase"),
    [
        ({"dose": "missing"}, "dose='missing' is not a column of obs"),
        ({"time": "time", "step": [1, None]}, "holds what is no time"),
        ({"time": "time", "time_unit": 3}, "time_unit=3 is no text"),
        ({"time": "time", "time_unit": "a\nb"}, r"time_unit=... holds 'a\\nb'"),
        ({"new_batches": "odd"}, "new_batches='odd' is neither"),
    ],
)
def test_an_argument_that_is_none_is_refused(options: dict[str, Any], phrase: str) -> None:
    with pytest.raises(CiteVAEError, match=phrase):
        Trajectories.from_anndata(screen(time=[1.0, 2.0] * 6), **options)


@pytest.mark.parametrize("unit", [3, np.array(["day"]), {"a": 1}, "", "a\nb"])
def test_a_unit_of_time_in_the_file_that_is_no_word_is_none(unit: Any) -> None:
    adata = screen(time=[1.0, 2.0] * 6)
    adata.uns["time_unit"] = unit
    assert Trajectories.from_anndata(adata, time="time").schema.time_unit == "time unit"
