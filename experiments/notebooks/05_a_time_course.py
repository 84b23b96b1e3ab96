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
# # A time course
#
# Cells were read on several days after a knock-out. Each cell was seen once, so nobody saw one move: the model connects the days. How do the
# programs move, which of them drives which, and what comes next?
#
# The screen is RENGE (Ishikawa et al. 2023: 23 knock-outs in human iPS cells, days 2 to 5). To be quick, training is short.

# %%
import pyro_citevae as cv
from pyro_citevae.analysis import measure, plots
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.models import CiteVAE

adata = cv.datasets.renge()
data = cv.Trajectories.from_anndata(adata, perturbation="perturbation", time="time", batch="time")
train, test = data.hold_out(times=[5])
print(data.summary())

# %% [markdown]
# `batch="time"` says that each day was a batch of its own, as in most time courses. What all cells of a day share is then never taken for an
# effect.

# %%
model = CiteVAE(train.schema)
posterior = cv.fit(model, BackwardSmoother(model), train, max_epochs=25, seed=0, progress=False)
posterior

# %% [markdown]
# ## What is a program?
#
# The genes that it moves most, and what they have in common in the gene ontology. The sign of a program is arbitrary.

# %%
found = posterior.program_genes(top=30)
strongest = found.table[found.table["rank"] <= 5]
strongest.pivot(index="program", columns="rank", values="gene").assign(name=found.names).head(8)

# %%
plots.program_genes(found.loadings)

# %% [markdown]
# ## How do the programs move?
#
# The programs that two knock-outs move most, with 80 % intervals, from day 0 to the day that nobody showed to the model.

# %%
programs = posterior.programs([cv.do(), cv.do("PRDM14"), cv.do("SOX2")], time=5)
plots.trajectories(programs, control="control", observed_until=4, unit="day")

# %% [markdown]
# Which knock-out moves which program:

# %%
everything = posterior.programs([cv.do(), *map(cv.do, train.schema.tokens)], time=5, draws=50)
plots.program_shifts(everything, control="control")

# %% [markdown]
# ## Which program drives which?
#
# An arrow is an edge of the lag graph: a program's state moves another one a step later. Whether such a graph can be known from a screen is a
# question of its own; `analysis.licence(posterior, train)` answers it.

# %%
W = posterior.to_datatree(draws=200)["posterior"]["W"]
plots.lag_graph(W)

# %% [markdown]
# ## What comes next?
#
# The forecast of day 5 against what was then measured.

# %%
headline = cv.datasets.CATALOGUE["renge"].headline
effects = posterior.effect([cv.do(name) for name in headline], time=5)
plots.effects(effects, [measure(test, name, 5.0) for name in headline])

# %% [markdown]
# Beyond day 5 nothing was measured. The intervals widen, since what a group takes on in a step is not known before:

# %%
wide = posterior.effect(cv.do("PRDM14"), time=[5, 6, 7])
wide.std(("chain", "draw")).mean("gene").squeeze().to_pandas().round(3)
