# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From scanpy and back
#
# You work in scanpy. The model reads your AnnData, and what it finds goes back there: states of cells, predicted cells, tables of genes.
#
# The screen is that of Papalexi et al. (2021): 25 knock-outs in stimulated THP-1 cells, 299 genes. To be quick, training is short.

# %%
import scanpy as sc

import pyro_citevae as cv
from pyro_citevae.analysis import plots
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.models import CiteVAE

adata = cv.datasets.papalexi()[::3].copy()
adata

# %% [markdown]
# ## Counts in a layer
#
# Most files have logarithms in `X` and counts in a layer. Name the layer, and the model takes the counts.

# %%
adata.layers["counts"] = adata.X.copy()
sc.pp.normalize_total(adata)
sc.pp.log1p(adata)
data = cv.Trajectories.from_anndata(adata, perturbation="perturbation", layer="counts", batch="batch")
print(data.summary())

# %%
model = CiteVAE(data.schema)
posterior = cv.fit(model, BackwardSmoother(model), data, max_epochs=20, seed=0, progress=False)

# %% [markdown]
# ## States of cells
#
# `annotate` writes the programs and the invariant state of each cell beside its counts, by name. Then it is scanpy as you know it.

# %%
posterior.annotate(adata)
sc.pp.neighbors(adata, use_rep="X_citevae")
sc.tl.umap(adata)
some = ["control", "IFNGR1", "STAT1", "IRF1", "SMAD4"]
shown = adata[adata.obs["perturbation"].isin(some)].copy()
shown.obs["knock-out"] = shown.obs["perturbation"].astype(str)
sc.pl.umap(shown, color="knock-out", title="programs of measured cells", size=25)

# %% [markdown]
# ## Predicted beside measured cells
#
# What would the control cells look like had IFNGR1 been knocked out? The prediction is an AnnData of counts with the same genes, so both can
# be joined.

# %%
predicted = posterior.predict(cv.do("IFNGR1"), cells=data.controls().thinned(300), draws=20)
measured = adata[adata.obs["perturbation"].isin(["control", "IFNGR1"])].copy()
measured.X = measured.layers["counts"].copy()
both = sc.concat({"measured": measured, "predicted": predicted}, label="origin", index_unique="-")
sc.pp.normalize_total(both)
sc.pp.log1p(both)
sc.pp.pca(both, n_comps=20)
sc.pp.neighbors(both)
sc.tl.umap(both)
both.obs["cells"] = both.obs["origin"].astype(str) + " " + both.obs["perturbation"].astype(str)
sc.pl.umap(both, color="cells", title="measured and predicted cells", size=25)

# %% [markdown]
# ## Genes that change
#
# A row a gene: mean, interval, the probability of a change beyond the threshold, and the local false sign rate.

# %%
effect = posterior.effect(cv.do("IFNGR1"))
table = effect.table(probability=0.9, threshold=0.1)
table[table["lfsr"] < 0.05].sort_values("mean").head(10).round(3)

# %%
effect.plot_volcano()

# %% [markdown]
# ## What the programs are
#
# Terms of the gene ontology that the strongest genes of a program have more often than other measured genes. A panel of 299 genes that were
# chosen by a study has few terms to find.

# %%
found = posterior.program_genes(top=20)
found.terms.sort_values("q").head(8)[["program", "name", "k", "K", "q", "genes"]].round(3)

# %%
plots.program_genes(found.loadings, names=found.names)
