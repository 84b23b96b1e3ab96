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
# # Predict an unseen perturbation
#
# You have an AnnData of a screen and a gene that nobody perturbed. What would its knock-out do, how sure is that, and
# is the answer any better than a simple rule? From the file to the forecast in six steps:
#
# 1. **Read** the AnnData, and hold a gene out, to have something to check against.
# 2. **Tell** the model what is known of genes.
# 3. **Fit.**
# 4. **Predict** cells and effects, with intervals.
# 5. **Compare** with simple rules, and with what a perfect prediction could score.
# 6. **Choose** what to measure next.
#
# The screen is that of Papalexi et al. (2021): 25 knock-outs in stimulated THP-1 cells, 299 genes. To be quick, cells
# are thinned and training is short.

# %%
import pyro_citevae as cv
from pyro_citevae import features
from pyro_citevae.analysis import (
    MeanOfOthers,
    RidgeOnFeatures,
    SoftmaxKernel,
    evaluate,
    markdown,
    measure,
    plots,
    summary,
)
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.models import CiteVAE

adata = cv.datasets.papalexi()
adata

# %% [markdown]
# ## 1. Read
#
# What the reader needs is a column with labels (`A`, `A+B`, `control`) and raw counts; batches are optional. A file in
# the layout of GEARS, scPerturb, CPA or the Virtual Cell Challenge is read as it is. Everything wrong with a file is
# told in one sentence when it is read.

# %%
screen = cv.Trajectories.from_anndata(adata, perturbation="perturbation", control="control", batch="batch")
screen = screen.thinned(6000)
train, test = screen.hold_out(perturbations=["IFNGR2"])
train

# %% [markdown]
# `train` has no cell of IFNGR2. Its schema still names IFNGR2, so that the model can be asked.
#
# ## 2. What is known of genes
#
# A gene without cells can only be predicted from genes that it is like. `gene_ontology` takes biological processes from
# a table that ships with the package; co-expression and a table of your own do as well, and `|` joins them.

# %%
known = features.gene_ontology(train.schema.tokens)
kernel = known.kernel
position = {gene: i for i, gene in enumerate(known.genes)}
likeness = {gene: kernel[position["IFNGR2"], i] for gene, i in position.items() if gene != "IFNGR2"}
{gene: round(float(likeness[gene]), 2) for gene in sorted(likeness, key=likeness.__getitem__)[::-1][:5]}

# %% [markdown]
# ## 3. Fit
#
# Left to itself, `fit` goes on until its bound has stopped rising. Here 25 passes over the cells do, to be quick.

# %%
model = CiteVAE(train.schema, features=known)
posterior = cv.fit(
    model, BackwardSmoother(model), train, max_epochs=25, batch_size=128, seed=0, progress=False
)
posterior.history.tail(3).round(2)

# %% [markdown]
# ## 4. Predict
#
# `predict` takes control cells, abducts what they are, and rolls the program forward under another schedule: an AnnData
# of counts, with the mean, the spread and an interval of each value in its layers.

# %%
cells = posterior.predict([cv.do(), cv.do("IFNGR2")], cells=train.controls().thinned(50), draws=50)
cells

# %% [markdown]
# `effect` is the change of the pseudobulk profile, drawn from the posterior. Against `do()`, the default, it is the
# difference of two predictions. Against the measured screen, as here, it forecasts what an experiment with the screen's
# own controls would report. The genes that move most, and their 80 % intervals:

# %%
effect = posterior.effect(cv.do("IFNGR2"), versus=train)
strongest = abs(effect.mean(("chain", "draw"))).squeeze().to_series().nlargest(8).index
effect.interval(0.8).squeeze().sel(gene=strongest).to_pandas().T.round(2)

# %% [markdown]
# A combination, and a dose at a time of its own, are asked in the same way: `cv.do("IFNGR2+STAT2")`,
# `cv.do("IFNGR2") | cv.do("STAT2", at=24)`.
#
# ## 5. Is it any better than a simple rule?
#
# Now the held-out cells are looked at. Each row of the table is scored on the same measured effect, IFNGR2's own gene
# left out; the ceiling is what a perfect prediction of noisy truth would score.

# %%
measured = measure(test, "IFNGR2", screen.schema.times[-1], train)
rules = (MeanOfOthers(train), SoftmaxKernel(train, known), RidgeOnFeatures(train, known))
predicted = {posterior.name: effect} | {rule.name: rule.effect(cv.do("IFNGR2")) for rule in rules}
scores = evaluate(predicted, [measured], headline=(), protocol="unseen-gene", dataset="papalexi")
print(markdown(summary(scores, ())))

# %%
plots.effects(effect, [measured])

# %% [markdown]
# Look at both numbers, and at the coverage. IFNGR2 has a close relative in training, IFNGR1, so that a rule which copies
# relatives is hard to beat on this one gene; and one gene, one seed and a short training prove little either way. The
# tables over all genes, folds and seeds are in `experiments/`, made by `citevae benchmark unseen-gene`.
#
# ## 6. What to measure next?
#
# Candidates are ranked by the information that a measurement in 100 cells is expected to give, by the spread of the
# prediction, or by the size of the effect; a sentence says what drives each rank.

# %%
ranking = posterior.rank(["IFNGR2", "IFNGR1", "STAT1", "SMAD4", "IFNGR2+SMAD4"], n_cells=100)
print(ranking.report())

# %%
plots.ranking(ranking)

# %% [markdown]
# The same from a shell: `citevae fit papalexi --hold-out perturbation=IFNGR2 -o runs/papalexi`, then
# `citevae predict runs/papalexi --do IFNGR2 -o pred.h5ad` and `citevae rank runs/papalexi`. Then ask whether the
# posterior is [any good](03_is_this_posterior_any_good.py).
