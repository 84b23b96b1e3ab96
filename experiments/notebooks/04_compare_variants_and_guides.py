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
# # Compare variants and guides
#
# Which model, and which guide, suits my screen? Both are compared by what they forecast, and never by the bound alone: a bound says how
# well a model explains cells like those that trained it.
#
# The screen is RENGE (Ishikawa et al. 2023: 23 knock-outs in human iPS cells, days 2 to 5). Days 2 to 4 train, day 5 is the question. To be
# quick, cells are thinned and training is short.

# %%
import matplotlib.pyplot as plt
import pandas as pd

import pyro_citevae as cv
from pyro_citevae.analysis import markdown, pareto_k, summary
from pyro_citevae.benchmark.held_out_time import forecast
from pyro_citevae.guides import BackwardSmoother, MeanField
from pyro_citevae.models import CiteVAE, StaticShift

screen = cv.datasets.load("renge").thinned(8000)
train, test = screen.hold_out(times=[5])
train

# %% [markdown]
# ## Variants
#
# A switch of `CiteVAE` takes an ingredient out. `StaticShift` has no dynamics at all, as in SAMS-VAE.

# %%
schema = train.schema
pairs = {
    "CiteVAE": (CiteVAE(schema), BackwardSmoother),
    "without onset": (CiteVAE(schema, onset=False), BackwardSmoother),
    "without group deviations": (CiteVAE(schema, group=False), BackwardSmoother),
    "StaticShift": (StaticShift(schema), BackwardSmoother),
    "CiteVAE, MeanField": (CiteVAE(schema), MeanField),
}
posteriors = {
    name: cv.fit(model, guide(model), train, max_epochs=12, seed=0, progress=False)
    for name, (model, guide) in pairs.items()
}

# %% [markdown]
# ## How did they train?
#
# The bound in nats a cell, of the cells that were held back. A difference of a few nats is within what another seed changes.

# %%
figure, axis = plt.subplots(figsize=(6, 3.2))
for (name, posterior), style in zip(
    posteriors.items(), ["-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1))], strict=True
):
    axis.plot(posterior.history["epoch"], posterior.history["held_out"], linestyle=style, label=name)
axis.set(xlabel="epoch", ylabel="held-out bound, nats a cell")
axis.legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# ## What do they forecast?
#
# Day 5, beside the simple rules and the ceiling that noise sets. Each cell of the table is Pearson / relative L2.

# %%
headline = cv.datasets.CATALOGUE["renge"].headline
rows = []
for name, posterior in posteriors.items():
    found = forecast(posterior, train, test, dataset="renge", headline=headline)
    scores = found.scores
    own = scores["predictor"] == posterior.name
    rows.append(scores[own].assign(predictor=name))
    rules = scores[~own]
print(markdown(summary(pd.concat([*rows, rules], ignore_index=True), found.headline)))

# %% [markdown]
# ## How near is each guide to the posterior of its model?
#
# Pareto k of each cell's states: above 0.7 the guide misses mass. It compares guides of one model, and no two models.

# %%
shares = {
    name: float(
        (pareto_k(posteriors[name], train, mechanism=False, draws=100, most_cells=150)["states"] < 0.7).mean()
    )
    for name in ("CiteVAE", "CiteVAE, MeanField")
}
figure, axis = plt.subplots(figsize=(4, 2))
axis.barh(list(shares), list(shares.values()), color="0.5")
axis.set(xlabel="share of cells with Pareto k below 0.7", xlim=(0, 1))
plt.show()

# %% [markdown]
# One seed and a short training prove little. `citevae benchmark ablation` does this over folds and seeds, and writes a table; what it found on
# the shipped screens is in `experiments/ablation`.
