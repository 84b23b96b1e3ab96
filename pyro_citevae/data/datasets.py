"""Real perturbation screens that ship with the package, each with its origin and licence."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib import resources
from types import MappingProxyType
from typing import Any

import anndata
from anndata import AnnData

from pyro_citevae.data.columns import Columns
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import DataError

__all__ = ["CATALOGUE", "Entry", "hill", "kang", "load", "norman_subset", "papalexi", "renge"]


@dataclass(frozen=True)
class Entry:
    """What is known of a shipped screen.

    Attributes:
        file: Name of the file in the package.
        what: Cells, perturbations and times.
        values: What the integers are.
        origin: Where the file was taken from, and the study to cite.
        licence: Licence of the file.
        columns: Arguments of :meth:`Trajectories.from_anndata` that fit it.
        headline: Perturbations whose effect is reproducible (at the last time of a time course), the
            strongest first: those that headline means are taken over.
    """

    file: str
    what: str
    values: str
    origin: str
    licence: str
    columns: Columns
    headline: tuple[str, ...] = ()


CATALOGUE = MappingProxyType(
    {
        "renge": Entry(
            file="renge_hipsc_timecourse.h5ad",
            what="14,945 human iPS cells x 103 genes, 23 transcription-factor knock-outs, days 2-5",
            values="integers after depth correction (panel totals vary by 12 %), not raw UMI",
            origin="PyPI renge 0.0.5, examples/data; GSE213069; Ishikawa et al. 2023",
            licence="MIT",
            columns=Columns(time="time", batch="time"),  # each day was a library of its own
            headline=("POU5F1", "PRDM14", "RUNX1T1", "NANOG", "SOX2", "FOXH1"),
        ),
        "papalexi": Entry(
            file="papalexi2021_thp1_eccite_299genes.h5ad",
            what="20,729 THP-1 cells x 299 genes (16,192 with a sure guide), 25 knock-outs, three replicates",
            values="raw UMI of a panel of 299 genes",
            origin="sceptredata, data/lowmoi_example_data.rda at ec722d5d; Papalexi et al. 2021",
            licence="MIT",
            columns=Columns(batch="batch"),
            headline=("IFNGR1", "IFNGR2", "JAK2", "STAT1", "SMAD4", "IRF1", "BRD4", "CUL3", "STAT2"),
        ),
        "norman_subset": Entry(
            file="norman2019_k562_500genes.h5ad",
            what="3,375 K562 cells x 500 genes (250 zero everywhere), 18 single and 15 double activations",
            values="UMI recovered from a log-normalised subset; ncounts is the cell's full library",
            origin="PerturBench, development file at d357dfae; Norman et al. 2019",
            licence="BSD-3-Clause",
            columns=Columns(library="ncounts", batch="batch"),
        ),
        "hill": Entry(
            file="hill2018_mcf10a_dox_scmageck.h5ad",
            what="6,229 MCF10A cells x 28 genes (5,698 with a guide), 29 knock-outs, 345 pairs of few cells",
            values="integers of 28 genes; n_counts_all_genes is the cell's full library",
            origin="scMAGeCK, inst/extdata at 06b5e6f5; Hill et al. 2018",
            licence="BSD-2-Clause",
            columns=Columns(library="n_counts_all_genes", exclude=("unassigned",)),
        ),
        "kang": Entry(
            file="kang2018_pbmc_ifnb_1267genes.h5ad",
            what="1,556 blood cells x 1,267 genes, interferon beta and control in 5 cell types of 2 donors",
            values="raw UMI of 1,267 genes",
            origin="muscat (Bioconductor) example data at 017b290d, a subset of GSE96583; Kang et al. 2018",
            licence="public (GEO)",
            columns=Columns(context="cell_type", batch="donor"),
            headline=("IFNB1",),
        ),
    }
)


def _open(name: str) -> AnnData:
    entry = CATALOGUE[name]
    with resources.as_file(resources.files("pyro_citevae.data") / "files" / entry.file) as path:
        adata = anndata.read_h5ad(path)
    adata.uns["origin"], adata.uns["licence"] = entry.origin, entry.licence
    adata.uns.setdefault("source", entry.origin)
    adata.uns["control"] = "control"
    return adata


def renge() -> AnnData:
    """A time course of 23 transcription-factor knock-outs in human iPS cells (Ishikawa et al. 2023).

    Each cell is seen once, on day 2, 3, 4 or 5 after the knock-out. The integers are depth-corrected.

    Returns:
        14,945 cells x 103 genes; ``obs`` has ``perturbation`` ('control' or the gene) and ``time`` in days.

    Example:
        >>> renge().shape
        (14945, 103)
    """
    return _open("renge")


def papalexi(*, sure_guides: bool = True) -> AnnData:
    """A snapshot of 25 knock-outs in stimulated THP-1 cells, raw UMI (Papalexi et al. 2021).

    Args:
        sure_guides: Keep only cells whose guide is sure (``guide_purity >= 0.8``, ``guide_umi >= 5``).

    Returns:
        16,192 (20,729) cells x 299 genes; ``obs`` has ``perturbation``, ``batch`` and the guide's counts.

    Example:
        >>> papalexi().shape
        (16192, 299)
    """
    adata = _open("papalexi")
    if not sure_guides:
        return adata
    sure = (adata.obs["guide_purity"] >= 0.8) & (adata.obs["guide_umi"] >= 5)
    return adata[sure.to_numpy()].copy()


def norman_subset() -> AnnData:
    """A small subset of a CRISPR-activation screen with pairs in K562 cells (Norman et al. 2019).

    Returns:
        3,375 cells x 500 genes; ``obs`` has ``perturbation`` ('A', 'A+B', 'control'), ``ncounts``, ``batch``.

    Example:
        >>> norman_subset().shape
        (3375, 500)
    """
    return _open("norman_subset")


def hill() -> AnnData:
    """Knock-outs and their combinations in MCF10A cells under doxorubicin (Hill et al. 2018).

    An awkward file: 28 genes, most of them the perturbed ones, up to six knock-outs in a cell, and many pairs
    of one cell each.

    Returns:
        6,229 cells x 28 genes; ``obs`` has ``perturbation`` ('A', 'A+B', 'control', 'unassigned') and
        ``n_counts_all_genes``.

    Example:
        >>> hill().shape
        (6229, 28)
    """
    return _open("hill")


def kang() -> AnnData:
    """Interferon beta in five types of blood cells of two donors, raw UMI (Kang et al. 2018).

    The same stimulus in several contexts: each cell type has control and stimulated cells, 15 to 100 a donor.

    Returns:
        1,556 cells x 1,267 genes; ``obs`` has ``perturbation`` ('control' or 'IFNB1'), ``cell_type`` and
        ``donor``.

    Example:
        >>> kang().shape
        (1556, 1267)
    """
    return _open("kang")


def load(name: str) -> Trajectories:
    """A shipped screen as trajectories, read with the columns that fit it.

    Args:
        name: ``"renge"``, ``"papalexi"``, ``"norman_subset"``, ``"hill"`` or ``"kang"``.

    Raises:
        DataError: There is no such screen.

    Example:
        >>> load("renge").schema.times
        (2.0, 3.0, 4.0, 5.0)
    """
    makers: dict[str, Any] = {
        "renge": renge,
        "papalexi": papalexi,
        "norman_subset": norman_subset,
        "hill": hill,
        "kang": kang,
    }
    if name not in makers:
        raise DataError(f"'{name}' is not a shipped data set; the shipped ones are {', '.join(makers)}.")
    return Trajectories.from_anndata(makers[name](), **asdict(CATALOGUE[name].columns))
