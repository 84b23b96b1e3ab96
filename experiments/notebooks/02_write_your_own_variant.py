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
# # How do I write my own model?
#
# A model is a Pyro program with four hooks: `mechanism` samples what all cells share, `initial` and `transition`
# say how a cell's programs start and move, `emission` says what is read. The library names the sites, opens the
# plates, walks the time, trains, predicts and exports: you write the science.
#
# Here we ask of the RENGE screen (Ishikawa et al. 2023: 23 knock-outs in human iPS cells, days 2 to 5) something
# that the default model cannot answer: **how fast does each cellular program respond?**

# %%
import arviz as az
import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import torch

import pyro_citevae as cv
from pyro_citevae.analysis import markdown, summary
from pyro_citevae.benchmark.held_out_time import forecast
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.nn import networks

data = cv.datasets.load("renge")
train, test = data.hold_out(times=[5])
train

# %% [markdown]
# ## The variant
#
# Each program k relaxes at its own rate $\rho_k$ towards a set point that the perturbations move:
#
# $$a_{pk} \sim N(0, 0.5), \qquad \rho_k \sim \mathrm{LogitNormal}(0, 1)$$
# $$z_{t,k} \sim N\big(z_{t-1,k} + \rho_k\,((u_t a)_k - z_{t-1,k}),\ \sigma_k\big), \qquad
#   x_t \sim \mathrm{NB}(\mathrm{library}\cdot\mathrm{softmax}(f(z_t) + \mathrm{batch}), \theta)$$
#
# so a program has covered half of its way after $\log 2 / {-\log(1-\rho_k)}$ days. The same symbols stand in the code.
# Tensors are indexed from the right, a hook never sees counts, and `dims` names the axes of the global sites.


# %%
class SetPoint(cv.LatentDynamics):
    """z_t ~ N(z_{t-1} + rho (u_t a - z_{t-1}), sigma): every program relaxes to a set point at its own rate."""

    dims = {"a": ("token", "program"), "rho": ("program",)}  # noqa: RUF012

    def __init__(self, schema, *, n_programs=8):
        super().__init__(schema, n_programs=n_programs)
        self.f = networks.Decoder(n_programs, schema.n_genes, 64)
        self.batch_effect = torch.nn.Parameter(torch.zeros(schema.n_batches, schema.n_genes))
        self.log_theta = torch.nn.Parameter(torch.full((schema.n_genes,), 2.0))
        self.sigma = cv.program.positive(torch.full((n_programs,), 0.3))

    def mechanism(self):
        P, K = self.schema.n_tokens, self.n_programs
        a = pyro.sample("a", dist.Normal(0.0, 0.5).expand((P, K)).to_event(2))
        logit = dist.Normal(0.0, 1.0).expand((K,)).to_event(1)
        rho = pyro.sample("rho", dist.TransformedDistribution(logit, [dist.transforms.SigmoidTransform()]))
        return cv.Mechanism(a=a, rho=rho)

    def initial(self, mechanism):
        return dist.Normal(torch.zeros(self.n_programs), 1.0).to_event(1)

    def transition(self, mechanism, history, u):
        set_point = u @ mechanism.a
        return dist.Normal(history[-1] + mechanism.rho * (set_point - history[-1]), self.sigma).to_event(1)

    def observation(self, mechanism, exposure, step, technical):
        return mechanism.updated(batch=self.batch_effect[technical])

    def emission(self, mechanism, z, s, library):
        share = (self.f(z) + mechanism.batch).log_softmax(-1)
        return cv.counts.NegativeBinomial(library.log()[..., None] + share, self.log_theta).to_event(1)


# %% [markdown]
# ## Does it obey the laws?
#
# `check_model` runs the program on small simulated screens: no state depends on a later dose, masked values do not
# move the bound, many draws at once equal a loop, saving and loading changes nothing, and so on. Run it before you
# spend an hour on a fit.

# %%
print(cv.check_model(SetPoint))

# %% [markdown]
# A law that is broken is named with what to mend. Here the transition forgets `.to_event(1)`:


# %%
class Forgetful(SetPoint):
    """A transition whose components are no event."""

    def transition(self, mechanism, history, u):
        return dist.Normal(history[-1] + u @ mechanism.a, self.sigma)


try:
    cv.fit(Forgetful(train.schema), BackwardSmoother(Forgetful(train.schema)), train, progress=False)
except cv.CiteVAEError as error:
    print(error)

# %% [markdown]
# ## Fit and look
#
# The fit is the library's: SVI on the same program, with any guide. Look at the bound before anything else. The 25 passes
# over the cells are to be quick; without `max_epochs` a fit goes on until its bound has stopped rising.

# %%
model = SetPoint(train.schema)
posterior = cv.fit(model, BackwardSmoother(model), train, max_epochs=25, seed=0, progress=False)

figure, axis = plt.subplots(figsize=(5, 3))
axis.plot(
    posterior.history["epoch"], posterior.history[["training", "held_out"]], label=["training", "held out"]
)
axis.set(xlabel="epoch", ylabel="bound, nats a cell")
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# ## The answer: rates with intervals
#
# The posterior is an ArviZ object with named axes. Days to half of the way, by program:

# %%
idata = posterior.to_arviz(draws=500)
half_way = np.log(2) / -np.log1p(-posterior.to_datatree(draws=500)["posterior"]["rho"])
half_way.quantile([0.1, 0.5, 0.9], dim=("chain", "draw")).to_pandas().T.round(2)

# %%
az.plot_forest(idata, var_names=["rho"], combined=True)
plt.show()

# %% [markdown]
# These are rates of *this model's* programs. Another seed finds another set of programs (they are labels without an
# order), and days enter the program as batches too, so the rates are a description, not a discovery, until they hold
# over seeds and over other data.
#
# ## Does it forecast?
#
# The held-out day, beside the simple rules, on both scores: Pearson and relative L2 of the effect (`summary` writes them
# as a pair), the table's last column being the ceiling that measurement noise allows.

# %%
headline = cv.datasets.CATALOGUE["renge"].headline
found = forecast(posterior, train, test, dataset="renge", headline=headline)
print(markdown(summary(found.scores, found.headline)))

# %% [markdown]
# ## Predict what nobody measured
#
# Prediction is the same program under another schedule; two schedules share their draws, so effects are paired.

# %%
effect = posterior.effect(cv.do("PRDM14", at=0) | cv.do("SOX2", at=2), time=5)
strongest = abs(effect.mean(("chain", "draw"))).squeeze().to_series().nlargest(5).index
effect.interval(0.8).squeeze().sel(gene=strongest).to_pandas().round(2)

# %% [markdown]
# From a shell the same class is `my_model.py:SetPoint`: `citevae check my_model.py:SetPoint`, then
# `citevae fit renge --model my_model.py:SetPoint -o runs/set_point`. To install it for others, name it under the entry
# point `pyro_citevae.models` of your package.
#
# What else can be written: `regime` (a mechanism that changes with the step or with a discrete state that inference sums
# over), `observation` (what doses and batches change beside the programs), `invariant`, and a guide of your own by
# `AmortizedGuide.states`. The shipped models are 60 to 200 lines each and made to be read.
