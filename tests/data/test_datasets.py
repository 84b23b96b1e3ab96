"""The shipped screens: sizes, counts, labels and provenance."""

from collections.abc import Callable
from dataclasses import asdict
from importlib import resources

import numpy as np
import pytest
from anndata import AnnData

from pyro_citevae.data import Schedule, Trajectories, datasets
from pyro_citevae.data.datasets import CATALOGUE, load
from pyro_citevae.errors import DataError

MAKERS: dict[str, Callable[[], AnnData]] = {
    "renge": datasets.renge,
    "papalexi": datasets.papalexi,
    "norman_subset": datasets.norman_subset,
    "hill": datasets.hill,
    "kang": datasets.kang,
}
LICENCES = {
    "renge": "MIT",
    "papalexi": "MIT",
    "norman_subset": "BSD-3-Clause",
    "hill": "BSD-2-Clause",
    "kang": "public (GEO)",
}
every_screen = pytest.mark.parametrize("name", MAKERS)


@pytest.fixture(scope="module")
def screens() -> dict[str, AnnData]:
    return {name: make() for name, make in MAKERS.items()}


@pytest.fixture(scope="module")
def loaded() -> dict[str, Trajectories]:
    return {name: datasets.load(name) for name in MAKERS}


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("renge", (14945, 103)),
        ("papalexi", (16192, 299)),
        ("norman_subset", (3375, 500)),
        ("hill", (6229, 28)),
        ("kang", (1556, 1267)),
    ],
)
def test_shapes(screens: dict[str, AnnData], name: str, shape: tuple[int, int]) -> None:
    assert screens[name].shape == shape


def test_unsure_guides_are_kept_on_request(screens: dict[str, AnnData]) -> None:
    every, sure = datasets.papalexi(sure_guides=False), screens["papalexi"]
    assert every.shape == (20729, 299)
    assert set(sure.obs_names) < set(every.obs_names)
    assert sure.obs["guide_purity"].min() >= 0.8
    assert sure.obs["guide_umi"].min() >= 5
    left_out = every.obs.drop(index=sure.obs_names)
    assert ((left_out["guide_purity"] < 0.8) | (left_out["guide_umi"] < 5)).all()


@every_screen
def test_values_are_counts(screens: dict[str, AnnData], name: str) -> None:
    values = screens[name].X.data
    assert (values >= 0).all()
    assert (values == np.rint(values)).all()
    assert values.max() > 1


@every_screen
def test_the_control_is_named_control(screens: dict[str, AnnData], name: str) -> None:
    adata = screens[name]
    assert (adata.obs["perturbation"] == "control").sum() >= 100
    assert adata.uns["control"] == "control"


@every_screen
def test_origin_and_licence_travel_with_the_data(screens: dict[str, AnnData], name: str) -> None:
    uns = screens[name].uns
    assert uns["origin"] == CATALOGUE[name].origin
    assert uns["licence"] == CATALOGUE[name].licence == LICENCES[name]
    assert uns["source"]


@every_screen
def test_names_are_unique(screens: dict[str, AnnData], name: str) -> None:
    assert screens[name].obs_names.is_unique
    assert screens[name].var_names.is_unique


@every_screen
def test_a_screen_can_be_changed_without_changing_the_next_one(name: str) -> None:
    first = MAKERS[name]()
    total = first.X.sum()
    first.X.data[:] = 0
    assert MAKERS[name]().X.sum() == total


def test_the_catalogue_lists_every_screen_and_is_read_only() -> None:
    assert set(CATALOGUE) == set(MAKERS)
    with pytest.raises(TypeError):
        CATALOGUE["renge"] = CATALOGUE["papalexi"]  # type: ignore[index]


@every_screen
def test_every_entry_is_complete(name: str) -> None:
    entry = CATALOGUE[name]
    assert all((entry.what, entry.values, entry.origin, entry.licence))
    assert (resources.files("pyro_citevae.data") / "files" / entry.file).is_file()


@every_screen
def test_headline_perturbations_are_in_the_data(loaded: dict[str, Trajectories], name: str) -> None:
    headline = CATALOGUE[name].headline
    assert set(headline) <= set(loaded[name].perturbations())
    assert len(set(headline)) == len(headline)


def test_every_shipped_file_is_in_the_catalogue() -> None:
    folder = resources.files("pyro_citevae.data") / "files"
    shipped = {file.name for file in folder.iterdir() if file.name.endswith(".h5ad")}
    assert shipped == {entry.file for entry in CATALOGUE.values()}


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("renge", {"14,945": 14945, "103": 103, "23": 23}),
        ("papalexi", {"16,192": 16192, "299": 299, "25": 25}),
        ("norman_subset", {"3,375": 3375, "500": 500, "18": 18, "15": 15, "250": 250}),
        ("hill", {"5,698": 5698, "28": 28, "29": 29, "345": 345}),
        ("kang", {"1,556": 1556, "1,267": 1267}),
    ],
)
def test_the_catalogue_tells_the_numbers(
    loaded: dict[str, Trajectories], name: str, numbers: dict[str, int]
) -> None:
    data = loaded[name]
    tokens = [len(label.split("+")) for label in data.perturbations()]
    silent = int((data.values.sum(0) == 0).sum())
    found = {data.n_cells, data.schema.n_genes, len(tokens), tokens.count(1), tokens.count(2), silent}
    assert set(numbers.values()) <= found
    assert all(text in CATALOGUE[name].what for text in numbers)


@pytest.mark.parametrize(
    ("name", "layout", "times", "unit", "batches"),
    [
        ("renge", "time course", (2.0, 3.0, 4.0, 5.0), "day", 4),
        ("papalexi", "snapshot", (3.0,), "step", 3),
        ("norman_subset", "snapshot", (3.0,), "step", 8),
        ("hill", "snapshot", (3.0,), "step", 1),
        ("kang", "snapshot", (3.0,), "step", 2),
    ],
)
def test_load_fits_the_design(
    loaded: dict[str, Trajectories],
    name: str,
    layout: str,
    times: tuple[float, ...],
    unit: str,
    batches: int,
) -> None:
    schema = loaded[name].schema
    assert (schema.design, schema.times, schema.time_unit, schema.n_batches) == (layout, times, unit, batches)


@every_screen
def test_load_is_from_anndata_with_the_columns_of_the_catalogue(
    screens: dict[str, AnnData], loaded: dict[str, Trajectories], name: str
) -> None:
    by_hand = Trajectories.from_anndata(screens[name], **asdict(CATALOGUE[name].columns))
    assert by_hand.digest == loaded[name].digest


@every_screen
def test_loaded_cells_keep_their_label_and_total(
    screens: dict[str, AnnData], loaded: dict[str, Trajectories], name: str
) -> None:
    adata, data = screens[name], loaded[name]
    position = adata.obs_names.get_indexer(data.names)
    labels = adata.obs["perturbation"].astype(str).iloc[position]
    assert data.labels.tolist() == [Schedule.parse(label).label() for label in labels]
    np.testing.assert_array_equal(
        np.asarray(data.values.sum(1)).ravel(), np.asarray(adata.X.sum(1)).ravel()[position]
    )


@every_screen
def test_libraries_hold_at_least_the_panel(loaded: dict[str, Trajectories], name: str) -> None:
    data = loaded[name]
    assert (data.library + 0.5 >= np.asarray(data.values.sum(1)).ravel()).all()
    assert (data.library >= 1).all()
    assert data.schema.total == np.median(data.library)
    assert 0 < data.schema.panel_share <= 1


def test_every_time_of_the_course_has_controls_and_every_knock_out(loaded: dict[str, Trajectories]) -> None:
    data = loaded["renge"]
    for time in data.schema.times:
        assert set(data.select(time=time).row_labels) == {"control", *data.perturbations()}


def test_every_knock_out_of_the_course_is_measured(loaded: dict[str, Trajectories]) -> None:
    schema = loaded["renge"].schema
    assert tuple(schema.genes[g] for g in schema.own_gene) == schema.tokens


def test_every_cell_type_of_each_donor_has_stimulated_and_control_cells(screens: dict[str, AnnData]) -> None:
    counts = screens["kang"].obs.value_counts(["cell_type", "donor", "perturbation"])
    assert len(counts) == 5 * 2 * 2
    assert counts.min() == 15
    assert counts.max() == 100


def test_an_unknown_data_set_is_answered_with_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"'frog' is not .* are renge, papalexi, norman_subset"):
        load("frog")
