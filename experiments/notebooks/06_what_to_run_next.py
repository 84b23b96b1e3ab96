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
# # What to run next
#
# The budget is for a few more perturbations. Which ones? Three answers are possible: the largest effect, the one that the model knows least of,
# or the one that would tell it most.
#
# The screen is that of Norman et al. (2019): genes activated alone and in pairs in K562 cells, of which 500 genes are shipped. To be quick,
# training is short.

# %%
from itertools import combinations

import pyro_citevae as cv
from pyro_citevae.analysis import plots
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.models import CiteVAE

screen = cv.Trajectories.from_anndata(cv.datasets.norman_subset(), perturbation="perturbation")
print(screen.summary())

# %%
model = CiteVAE(screen.schema)
posterior = cv.fit(model, BackwardSmoother(model), screen, max_epochs=15, seed=0, progress=False)

# %% [markdown]
# ## Candidates
#
# All pairs of genes that were seen alone, and not together:

# %%
seen = {"+".join(sorted(label.split("+"))) for label in screen.perturbations()}
pairs = ["+".join(pair) for pair in combinations(sorted(screen.schema.tokens), 2)]
candidates = [pair for pair in pairs if pair not in seen][:40]
len(candidates)

# %% [markdown]
# ## By what they would tell
#
# The information, in nats, that an effect measured in 100 cells is expected to give on the mechanism. The sentence says what drives a rank.

# %%
ranking = posterior.rank(candidates, n_cells=100, draws=100, progress=False)
print("\n".join(ranking.report().splitlines()[:5]))

# %%
plots.ranking(ranking, most=12)

# %% [markdown]
# ## By the size of the effect

# %%
largest = posterior.rank(candidates, by="effect", draws=100, progress=False)
largest.table.head(5)[["candidate", "effect", "spread", "information"]].round(2)

# %% [markdown]
# ## Which pairs are more than their sum?
#
# The effect of a pair is laid out over those of its members. A strength of one is the sum; `kind` is named where it is probable.

# %%
found = posterior.interactions(candidates[:12], draws=100)
found.table[["pair", "first", "second", "strength", "lower", "upper", "kind"]].round(2)

# %%
plots.interactions(found)

# %% [markdown]
# `kind` is a statement about this model's forecast. How well unseen pairs are forecast at all is measured in `experiments/unseen_combination`.
# The same from a shell: `citevae rank RUN --candidates PAIRS.txt`.
