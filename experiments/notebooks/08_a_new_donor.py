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
# # A new donor, from its controls alone
#
# A drug was measured in cells of one donor. Of another donor there are untreated cells only. What would the drug do in
# each of its cell types, and how sure is that?
#
# 1. **Read** the first donor's cells; a *context* is a kind of cell that no perturbation changes.
# 2. **Fit.** How much do contexts have in common?
# 3. **Adapt** the posterior to the second donor's controls.
# 4. **Predict** effects and cells there.
# 5. **Compare** with what was measured, which no fit has seen.
#
# The screen is that of Kang et al. (2018): interferon beta in five types of blood cells. To be quick, training is short.

# %%
import numpy as np
import pandas as pd

import pyro_citevae as cv
from pyro_citevae.analysis import measure, plots
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.models import CiteVAE

adata = cv.datasets.kang()
adata.obs["kind"] = adata.obs["cell_type"].astype(str) + ", " + adata.obs["donor"].astype(str)
first = adata[adata.obs["donor"] == "donor_1"].copy()
second = adata[adata.obs["donor"] == "donor_2"].copy()
controls = second[second.obs["perturbation"] == "control"].copy()
adata.obs.groupby(["kind", "perturbation"], observed=True).size().unstack()

# %% [markdown]
# ## 1. Read
#
# `context=` names the column. A batch is something else: a nuisance that the model takes out.

# %%
train = cv.Trajectories.from_anndata(first, context="kind")
train.summary()

# %% [markdown]
# ## 2. Fit
#
# Each context has a start of its own, a baseline of its own, and a mechanism that may deviate from the shared one.

# %%
model = CiteVAE(train.schema)
posterior = cv.fit(model, BackwardSmoother(model), train, max_epochs=120, seed=0, progress=False)
posterior

# %% [markdown]
# How much of interferon's shift do contexts share? The share that they have apart is 0 where all respond alike, and 1
# where they have nothing in common.

# %%
posterior.context_shifts().table

# %% [markdown]
# ## 3. Adapt
#
# Start and baseline of the new contexts are fitted to the controls; all else stays. No treated cell of the new donor is
# looked at. `predict` and `effect` do the same by themselves when they are given such cells.

# %%
known = posterior.adapt(controls, progress=False)
new = list(known.schema.contexts[train.schema.n_contexts :])
new

# %% [markdown]
# ## 4. Predict
#
# What interferon does in a new context is forecast from the contexts where it was measured. Which of them to believe
# is learnt from all genes at once, by how alike the controls look.

# %%
effect = known.effect("IFNB1", context=new, seed=0, progress=False)
table = effect.table(probability=0.8)
table.sort_values("mean", ascending=False).groupby("context", observed=True).head(3)

# %%
effect.sel(context=new[0]).plot_volcano()

# %%
cells = known.predict("IFNB1", cells=controls, draws=30, seed=0, progress=False)
cells

# %% [markdown]
# ## 5. Compare
#
# Now the treated cells of the second donor are read, for the first time. Beside the forecast stands the mean effect in
# the first donor's cell types, a rule that is hard to beat.

# %%
measured = known.read(second)
time = known.schema.times[-1]
rows, asked = [], []
in_first = [
    measure(train.select(context=name), "IFNB1", time, train.select("control", context=name)).delta
    for name in train.schema.contexts
]
for name in new:
    here = measured.select(context=name)
    truth = measure(here, "IFNB1", time, here.select("control"))
    inside = effect.sel(context=name, perturbation="IFNB1").isel(time=0)
    mean = inside.mean(("chain", "draw")).to_numpy()
    for forecast, value in (("CITE-VAE", mean), ("mean of the first donor", np.mean(in_first, axis=0))):
        error = np.linalg.norm(value - truth.delta) / np.linalg.norm(truth.delta)
        pearson = np.corrcoef(value, truth.delta)[0, 1]
        rows.append({"context": name, "forecast": forecast, "pearson": pearson, "relative error": error})
pd.DataFrame(rows).pivot(index="context", columns="forecast").round(2)

# %%
shown = measured.select(context=new[1])
plots.effects(effect.sel(context=new[1]), [measure(shown, "IFNB1", time, shown.select("control"))])

# %% [markdown]
# The interval of a forecast holds what is not known of the new context. Measuring a few treated cells of it narrows it
# most; `known.rank(["IFNB1"], context=...)` says by how much.
