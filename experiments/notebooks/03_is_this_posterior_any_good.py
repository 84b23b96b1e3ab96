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
# # Is this posterior any good?
#
# A variational posterior always comes back with an answer and an interval. Five questions tell whether to believe them:
#
# 1. **Does the model make data like mine?** Predictive checks.
# 2. **Is each value as surprising as it should be?** The probability integral transform.
# 3. **Do the intervals cover?** Coverage and sharpness of held-out effects, and the held-out bound.
# 4. **Is the guide near the exact posterior of this model?** Pareto k, a block at a time.
# 5. **Would the whole procedure find the truth if the model were true?** Simulation-based calibration.
#
# The first three judge the model, the last two the inference. The data are RENGE (Ishikawa et al. 2023), trained on days
# 2 to 4; day 5 is held out. To be quick this notebook trains for a few epochs only: the questions are the point.

# %%
import warnings

import arviz as az

import pyro_citevae as cv
from pyro_citevae.analysis import (
    coverage,
    held_out_bound,
    measure,
    measured_effects,
    pareto_k,
    predictive_check,
    quantities,
    randomised_pit,
    simulation_based_calibration,
    uniform,
)
from pyro_citevae.analysis.criticism import plots
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.models import CiteVAE, LinearGaussian

data = cv.datasets.load("renge")
train, test = data.hold_out(times=[5])
model = CiteVAE(train.schema)
posterior = cv.fit(model, BackwardSmoother(model), train, max_epochs=20, seed=0, progress=False)

# %% [markdown]
# ## 1. Does the model make data like mine?
#
# `predictive_check` draws new cells under the same schedules, at the same times and library sizes, and compares the zero
# fraction, mean and variance of each gene, the library sizes, and the number of differentially expressed genes of each
# perturbation. A p-value near 0 means that the replicated data never look like the real ones in that respect.

# %%
check = predictive_check(posterior, train.thinned(2000), draws=40)
plots.predictive_checks(check)

# %% [markdown]
# Share of genes with a p-value below 0.05, by statistic (0.05 is what a perfect model would show; the data trained the
# model, so fewer is usual and more is a misfit):

# %%
per_gene = check["p_value"].to_dataset()[["zero_fraction", "mean", "variance"]]
(per_gene < 0.05).mean("gene").to_pandas().round(2)

# %% [markdown]
# ## 2. Is each value as surprising as it should be?
#
# If the program made the held-out values, their randomised probability integral transform is uniform. A hump in the
# middle: the predictive distribution is too wide. A bowl: too narrow. A slope: biased. Here, cells of day 5, which the
# model has not seen.

# %%
pit = randomised_pit(posterior, test, draws=100, most_cells=400)
plots.pit(pit)

# %% [markdown]
# ## 3. Do the intervals cover?
#
# Effects on day 5 against those measured there, over all genes of the six reproducible knock-outs. The measured effects
# have sampling noise of their own, which is added to the draws before they are compared. Above the diagonal: intervals
# too wide; below: too narrow. Among calibrated forecasts, the narrower is the better.

# %%
headline = cv.datasets.CATALOGUE["renge"].headline
measured = measured_effects([measure(test, name, 5.0) for name in headline], data.schema.genes)
effects = posterior.effect([cv.do(name) for name in headline], time=5)
curve = coverage(effects, measured["effect"], variance=measured["variance"])
plots.calibration(curve, unit="log(1 + count)")

# %% [markdown]
# The held-out bound by perturbation says where the model explains cells worse than elsewhere (nats a cell, higher is
# better):

# %%
bound = held_out_bound(posterior, test.thinned(1200), particles=16)
bound["bound"].sel(time=5.0).to_series().sort_values().round(1).head(8)

# %% [markdown]
# ## 4. Is the guide near the exact posterior?
#
# Importance weights p / q of the guide's draws: where their tail is heavy (Pareto k above 0.7) the guide misses mass that
# no reweighting mends. A k of all sites together would fail by their number alone, so each cell's states are weighed
# apart. Cells above are those whose programs should not be read as exact, one by one: judge them by held-out
# predictions, and widen by an `Ensemble` of seeds.

# %%
found = pareto_k(posterior, train, mechanism=False, draws=200, most_cells=300)
plots.pareto_k(found)

# %%
f"{float((found['states'] < 0.7).mean()):.0%} of the cells below 0.7"

# %% [markdown]
# ## 5. Would the procedure find the truth?
#
# Simulate from the prior, fit, and rank the truth among the posterior's draws: over many replicates the ranks are uniform
# if the inference is right. On a linear Gaussian program the smoother holds the exact posterior, so its ranks should stay
# inside the band; on your own model use a size that you can afford. The guide is amortised: it is trained once, on data of
# its own, and only refreshed for each replicate.

# %%
design = cv.simulate(
    n_cells=200, n_genes=6, n_programs=2, n_perturbations=3, n_steps=3, design="sequences", values="real"
).data
linear = LinearGaussian(design.schema, n_programs=2)
guide = BackwardSmoother(linear, hidden=16, correction=0, correlated=True)
settings = {"batch_size": 200, "kl_start": 1.0, "validation": 0.0, "n_particles": 10}
found = simulation_based_calibration(
    linear,
    guide,
    design,
    replicates=60,
    first={"max_epochs": 300, "learning_rate": 0.05},
    max_epochs=1,
    learning_rate=1e-3,
    progress=False,
    **settings,
)
ranks = quantities(found)
uniform(ranks, "draw").to_dataframe().round(3)

# %% [markdown]
# The difference between the ranks' distribution function and the uniform one, a line for each quantity, with the band that
# 99 % of uniform ones stay within:

# %%
plots.ecdf_differences(ranks)

# %% [markdown]
# ## In ArviZ
#
# The same posterior is an ArviZ object: summaries, leave-one-out cross-validation and predictive plots are one call.

# %%
idata = posterior.to_arviz(train, draws=100, most_cells=60)
az.summary(idata, var_names=["kappa"], kind="stats").iloc[:6]

# %%
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # some Pareto k are large, as section 4 shows
    found = az.loo(idata)
found

# %% [markdown]
# What to do with the answers: a misfit in (1) or (2) asks for another emission (`emission="zero_inflated"`) or another
# program; intervals too narrow in (3) for an `Ensemble`; a heavy tail in (4) for a richer guide (`Flow`,
# `BackwardSmoother(correlated=True)`, `mechanism="low_rank"`) or a tighter bound (`objective="iwae"`); ranks outside the
# band in (5) mean that the inference itself is wrong, whatever the data say.
