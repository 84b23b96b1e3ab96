"""The laws: what each one says, how it is tried, and what to mend where it is broken."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import pyro
import torch
from jaxtyping import Int
from torch import Tensor

from pyro_citevae.class_source import kind_and_reason
from pyro_citevae.conformance.pair import Case, Pair, dense, of_cells, sparse
from pyro_citevae.conformance.run import TOLERANCE, Run, plates, require_same
from pyro_citevae.data import Batch, Schedule, do
from pyro_citevae.data.anndata_io import layer_names
from pyro_citevae.errors import CiteVAEError, ConformanceError, HookError
from pyro_citevae.infer import Posterior
from pyro_citevae.infer.bounds import negative_bound
from pyro_citevae.infer.captured_step import reads
from pyro_citevae.infer.drawn_rows import drawn_rows
from pyro_citevae.infer.fit_tree import FitTree
from pyro_citevae.infer.latent_sites import global_sites, require_matching_sites
from pyro_citevae.infer.site_axes import site_axes
from pyro_citevae.nn.rows_in_use import RowsInUse
from pyro_citevae.program import Rollout
from pyro_citevae.sites import VALUES, states_to

__all__ = ["LAWS", "Law", "mend_of", "seen_of"]

_DRAWS = 3


@final
@dataclass(frozen=True)
class Law:
    """A law: what it says, how it is tried, and what to mend.

    Attributes:
        name: A word.
        sentence: What it says.
        mend: What to do where it is broken.
        trial: Raises if it is broken, and returns what was seen if not.
        needs: Laws without which it cannot be tried.
        of_guides: Whether it concerns guides too.
        of_hooks: Whether what a failing hook advises is better than ``mend``.
        advice: Whether a class may break it.
    """

    name: str
    sentence: str
    mend: str
    trial: Callable[[Pair], str]
    needs: tuple[str, ...] = ("hooks",)
    of_guides: bool = True
    of_hooks: bool = False
    advice: bool = False


def mend_of(error: BaseException | None) -> str | None:
    """What a hook's own error advises, where it is the cause."""
    while error is not None and not isinstance(error, HookError):
        error = error.__cause__
    return None if error is None else error.mend


def seen_of(error: Exception) -> str:
    """What an error says, as a part of a sentence."""
    if isinstance(error, HookError):
        return error.said
    return str(error).rstrip(".") if isinstance(error, CiteVAEError) else kind_and_reason(error)


def _made(pair: Pair) -> str:
    values = pair.cases[0].data.schema.values
    return f"made for {values}, in {len(pair.cases)} study designs, one of them with contexts"


def _names(case: Case) -> str:
    with torch.no_grad():
        case.model.aligned_mechanism()  # which refuses the names that are taken
    return f"{len(global_sites(case.model))} global sites with names of their own"


def _dims(case: Case) -> str:
    model, shapes = case.model, {name: tuple(v.shape) for name, v in global_sites(case.model).items()}
    axes = site_axes(model, shapes)
    for name in model.dims:
        if name not in shapes:
            raise ConformanceError(
                f"{type(model).__name__}.dims names '{name}', expected global sites, which are "
                f"{', '.join(shapes) or 'none'}"
            )
    for axis in model.coords.keys() - {axis for named in axes.values() for axis in named}:
        raise ConformanceError(
            f"{type(model).__name__}.coords names '{axis}', an axis that no site has by dims"
        )
    exported = FitTree(model, case.guide, _DRAWS).groups(case.data.thinned(4), 0)["posterior"]
    numbered = [name for name in shapes if name not in model.dims]
    told = f", {len(numbered)} of them by number" if numbered else ""
    return f"{len(shapes)} of {len(exported.data_vars)} exported variables are global{told}"


def _hooks(case: Case) -> str:
    model, last = case.model, case.batch.n_steps
    events = dict.fromkeys(states_to(last), (model.n_programs,)) | {VALUES: (model.schema.n_genes,)}
    forward = f"{type(model).__name__}.forward"
    for batch in (case.batch, case.batch.unobserved()):
        run = Run(model, batch)
        for name, event in events.items():
            if name not in run.sites:
                raise ConformanceError(f"{forward} samples no '{name}', expected z_0, ..., z_{last} and x")
            found = tuple(run.sites[name]["fn"].event_shape)
            if found != event:
                raise ConformanceError(f"{forward} gives '{name}' event shape {found}, expected {event}")
        if not isinstance(run.returned, Rollout):
            raise ConformanceError(f"{forward} returns a {type(run.returned).__name__}, expected a Rollout")
    return f"{len(events)} laws of the right shapes"


def _sites(case: Case) -> str:
    require_matching_sites(case.model, case.guide, case.batch)
    guided = case.guided.latent
    for name, site in guided.items():
        expected, found = (tuple(one["fn"].event_shape) for one in (case.drawn.sites[name], site))
        if found != expected:
            raise ConformanceError(
                f"{type(case.guide).__name__} draws '{name}' with event shape {found}, expected {expected}"
            )
    return f"{len(guided)} sites in both"


def _plates(case: Case) -> str:
    guided = case.guided.latent
    for name, site in guided.items():
        expected, found = (_in_words(plates(one)) for one in (case.drawn.sites[name], site))
        if found != expected:
            raise ConformanceError(
                f"{type(case.guide).__name__} draws '{name}' in {found}, expected {expected}"
            )
    return f"{len(guided)} sites in their plates"


def _in_words(sizes: Mapping[str, int]) -> str:
    return " and ".join(f"the plate '{name}' of {size}" for name, size in sorted(sizes.items())) or "no plate"


def _weights(case: Case) -> str:
    for name, site in case.guided.latent.items():
        for what, verb in (("mask", "masks"), ("scale", "scales")):
            both = (_weight(one[what]) for one in (case.drawn.sites[name], site))
            expected, found = torch.broadcast_tensors(*both)
            if not torch.equal(expected, found):
                raise ConformanceError(
                    f"{type(case.guide).__name__} {verb} '{name}' by {_values(found)}, expected "
                    f"{_values(expected)} as in {type(case.model).__name__}"
                )
    return "masks and scales agree"


def _weight(given: Any) -> Tensor:
    return torch.as_tensor(True if given is None else given)


def _values(given: Tensor) -> str:
    return " and ".join(str(value) for value in given.unique().tolist())


def _counts(case: Case) -> str:
    run = case.drawn
    changed = replace(case.batch, x=sparse(2 * dense(case.batch).flip(-1) + 1))
    after = Run(case.model, changed, run.values).densities
    return require_same(run, run.densities, after, "when the observed values change and nothing else")


def _initial(case: Case) -> str:
    run = case.drawn
    after = Run(case.model, _redosed(case.batch, 0), run.values).densities
    before = {
        name: value for name, value in run.densities.items() if run.step_of(name) == 0 and name != VALUES
    }
    return require_same(run, before, after, "when the doses change and nothing else")


def _causality(case: Case) -> str:
    seen, run = "", case.drawn
    for t in range(1, case.batch.n_steps):
        after = Run(case.model, _redosed(case.batch, t), run.values).densities
        before = {name: value for name, value in run.densities.items() if 0 < run.step_of(name) <= t}
        past = case.batch.step <= t
        before[VALUES], after[VALUES] = run.densities[VALUES][past], after[VALUES][past]
        seen = require_same(run, before, after, f"when the doses after step {t} change and nothing else")
    return seen


def _redosed(batch: Batch, t: int) -> Batch:
    """The same cells with other doses after step t."""
    u = batch.u.clone()
    u[t + 1 :] = 1 - 0.5 * u[t + 1 :]
    return replace(batch, u=u)


def _prediction(case: Case) -> str:
    trained, predicted = set(case.drawn.sites), set(Run(case.model, case.batch.unobserved()).sites)
    for name in sorted(trained ^ predicted):
        when, never = ("training", "prediction") if name in trained else ("prediction", "training")
        raise ConformanceError(
            f"{type(case.model).__name__}.forward samples '{name}' in {when} and not in {never}"
        )
    return f"{len(trained)} sites in both"


def _forecast(case: Case) -> str:
    later = case.batch.n_steps + 2
    u = torch.cat([case.batch.u, *[case.batch.u[-1:]] * 2])
    batch = replace(case.batch.unobserved(), u=u, step=torch.full_like(case.batch.step, later))
    if not torch.isfinite(Run(case.model, batch).sites[VALUES]["value"]).all():
        raise ConformanceError(f"values forecast for step {later} are not finite")
    return f"rolled on to step {later}"


def _vectorised(case: Case) -> str:
    seen = ""
    for program in (case.model, case.guide):
        runs = [Run(program, case.batch) for _ in range(_DRAWS)]
        values, densities = Run.side_by_side(runs)
        together = Run(program, case.batch, values, draws=_DRAWS).densities
        when = f"when {_DRAWS} draws run side by side instead of one by one"
        seen = require_same(runs[0], densities, together, when)
    loop = torch.stack([case.bound(case.batch, run.values) for run in runs]).mean()
    whole = case.bound(case.batch, values, particles=_DRAWS)
    if not torch.allclose(loop, whole, rtol=TOLERANCE):
        raise ConformanceError(f"the bound of {_DRAWS} particles is {whole:.6g}, expected {loop:.6g}")
    return seen


def _permutation(case: Case) -> str:
    order = torch.randperm(case.batch.n_cells)
    return _moved(case, order, "when the cells change places")


def _minibatch(case: Case) -> str:
    half = torch.arange(0, case.batch.n_cells, 2)
    return _moved(case, half, "when other cells are left out of the minibatch")


def _moved(case: Case, index: Int[Tensor, " chosen"], when: str) -> str:
    """Compares the laws of cells with those of the same cells in another minibatch."""
    seen = ""
    for run in (case.drawn, case.guided):
        other = Run(run.program, of_cells(case.batch, index), run.values_of(index))
        seen = require_same(run, run.densities_of(index), other.densities, when)
    return seen


def _masked(case: Case) -> str:
    observed = case.batch.observed & (torch.arange(case.batch.n_cells) % 4 > 0)
    batch = replace(case.batch, observed=observed)
    noise = torch.where(observed[..., None], dense(batch), 7 * dense(batch) + 3)
    library = torch.where(observed, batch.library, 7 * batch.library)
    bound, noisy = case.bound(batch), case.bound(replace(batch, x=sparse(noise), library=library))
    if not torch.allclose(bound, noisy, rtol=1e-6):
        raise ConformanceError(
            f"the bound is {noisy:.6g}, expected {bound:.6g}, when values that nobody observed change"
        )
    return f"the bound stays at {bound:.6g}"


def _gradients(pair: Pair) -> str:
    # a partner may well have a part that this subject has no use for
    own = {name for name in pair.cases[0].parameters if name.startswith(f"{pair.subject}.")}
    unused = set(own)
    for case in pair.cases:
        unused -= {name for name, found in case.gradients(case.batch).items() if found is not None}
    if unused:
        raise ConformanceError(f"the bound does not depend on {', '.join(sorted(unused))}")
    return f"{len(own)} parameters of {pair.subject} have finite gradients"


def _empty(case: Case) -> str:
    silent = dense(case.batch).clone()
    silent[..., 2] = 0
    silent[:, 5] = 0
    library = case.batch.library.clone()
    library[:, 5] = 1
    batches = {
        "a gene and a cell without counts": replace(case.batch, x=sparse(silent), library=library),
        "a minibatch without an observation": replace(
            case.batch, observed=torch.zeros_like(case.batch.observed)
        ),
        "a minibatch of one cell": of_cells(case.batch, torch.tensor([3])),
    }
    for what, batch in batches.items():
        try:
            case.gradients(batch)
        except Exception as error:
            raise ConformanceError(f"{seen_of(error)}, with {what}") from error
    return "the bound and its gradients are finite"


def _control(case: Case) -> str:
    schema, cells = case.data.schema, case.data.controls()
    labelled = Schedule.parse(schema.control, schema.control)
    made = case.posterior.predict([do(), do(schema.tokens[0]), labelled], cells=cells, draws=_DRAWS)
    first, last = (~made.obs["source_cell"].duplicated(keep=which).to_numpy() for which in ("first", "last"))
    for layer in layer_names(made):
        values = np.asarray(made.layers[layer])
        apart = float(np.abs(values[first] - values[last]).max())
        if not apart <= TOLERANCE * float(np.abs(values).max()):
            raise ConformanceError(
                f"the {layer} of {type(case.model).__name__} under do() and under do('{schema.control}') are "
                f"{apart:.2g} apart, expected 0"
            )
    return f"{cells.n_cells} control cells predicted alike"


def _paired(case: Case) -> str:
    schema = case.data.schema
    at = schema.times[-1] - schema.step
    late = do(schema.tokens[0], at=at)
    programs = case.posterior.programs([do(), late], cells=case.data.controls(), draws=_DRAWS)
    until = programs.sel(time=programs.time <= at)
    apart = float(abs(until.isel(perturbation=0) - until.isel(perturbation=1)).max())
    if not apart <= TOLERANCE:
        raise ConformanceError(
            f"states of {type(case.model).__name__} under do() and {late} are {apart:.2g} apart up to "
            f"time {at:g}, expected 0"
        )
    return f"states are the same up to time {at:g}"


def _fitted(pair: Pair) -> str:
    return f"the bound is {pair.fitted.history['training'].iloc[-1]:.4g} nats a cell"


def _saved(pair: Pair) -> str:
    with tempfile.TemporaryDirectory() as folder:
        pair.fitted.save(Path(folder) / "run")
        torch.manual_seed(1)  # what is drawn when the model is made, and not saved, comes out otherwise
        loaded = Posterior.load(Path(folder) / "run", type(pair.fitted.model), type(pair.fitted.guide))
    schedule, cells = do(loaded.schema.tokens[0]), pair.cases[-1].data.controls()
    before, after = (one.predict(schedule, cells=cells, draws=_DRAWS) for one in (pair.fitted, loaded))
    for layer in layer_names(before):
        apart = float(np.abs(before.layers[layer] - after.layers[layer]).max())
        if not apart == 0:
            raise ConformanceError(f"the {layer} predicted before and after is {apart:.2g} apart, expected 0")
    return "equal draws before and after"


def _capturable(case: Case) -> str:
    bound = negative_bound(case.model, case.guide, "elbo", alpha=0.0, particles=1)
    learnt = [*case.model.parameters(), *case.guide.parameters()]
    every = RowsInUse.every(case.data.schema.n_tokens)
    with drawn_rows(case.model, case.guide, every), pyro.validation_enabled(False):
        found = reads(lambda: bound(case.batch), learnt)
    if found:
        raise ConformanceError(f"a step {found[0]}")
    return "a step asks the device nothing"


def _each(trial: Callable[[Case], str]) -> Callable[[Pair], str]:
    """Tries a law in every study design, and says in which one it is broken."""

    def tried(pair: Pair) -> str:
        seen = ""
        for case in pair.cases:
            try:
                seen = trial(case)
            except Exception as error:
                raise ConformanceError(f"{seen_of(error)} (in a {case.name})") from error
        return seen

    return tried


LAWS: tuple[Law, ...] = (
    Law(
        "made",
        "A schema makes the model, and the model makes the guide.",
        "write every hook, begin with super().__init__(schema), and give every further argument a default, "
        "or pass a function that makes it",
        _made,
        needs=(),
        of_hooks=True,
    ),
    Law(
        "names",
        "No global site has a name that the program or the export uses.",
        "call the site by a symbol of its own; z_<number>, s, x and the names of axes are taken",
        _each(_names),
        needs=("made",),
        of_guides=False,
        of_hooks=True,
    ),
    Law(
        "hooks",
        "Each hook returns a law of the right event and batch shape.",
        "a state's law has event shape (program,), an emission's (gene,), and both broadcast over cells",
        _each(_hooks),
        needs=("made", "names"),
        of_hooks=True,
    ),
    Law(
        "sites",
        "The model and its guide draw the same latent sites.",
        "sample global sites in mechanism(), and draw every other one in the guide's states()",
        _each(_sites),
        of_hooks=True,
    ),
    Law(
        "plates",
        "The guide draws every site inside the plates that it belongs to.",
        "open pyro.plate('cell', batch.size, subsample=batch.index, dim=-1) around the sites of cells alone",
        _each(_plates),
        needs=("sites",),
    ),
    Law(
        "weights",
        "The guide masks and scales every site as the model does.",
        "give the plate of cells batch.size and batch.index, and draw states by state(), which masks",
        _each(_weights),
        needs=("plates",),
    ),
    Law(
        "counts",
        "Observed values reach no hook.",
        "let hooks depend on what they are given, and keep nothing of the batch on the model",
        _each(_counts),
        of_guides=False,
    ),
    Law(
        "initial",
        "The law before the first step is the same for every perturbation.",
        "let initial() and mechanism() see no dose",
        _each(_initial),
        of_guides=False,
    ),
    Law(
        "causality",
        "No dose moves a state or an observation before it.",
        "let transition() see the dose of its own step, and observation() the exposure so far",
        _each(_causality),
        of_guides=False,
    ),
    Law(
        "prediction",
        "Training and prediction sample the same sites.",
        "sample every site whether or not batch.x is there",
        _each(_prediction),
        of_guides=False,
    ),
    Law(
        "forecast",
        "The program rolls on past the last time of the data.",
        "let nothing in a hook be indexed by the step without a bound",
        _each(_forecast),
        of_guides=False,
    ),
    Law(
        "vectorised",
        "Draws side by side are the same as one by one.",
        "index tensors from the right (u @ a, not a[0]), and sum over named axes, never over all",
        _each(_vectorised),
        needs=("sites",),
        of_hooks=True,
    ),
    Law(
        "permutation",
        "Cells that change places take their laws along.",
        "let nothing depend on a cell's place in the batch",
        _each(_permutation),
        needs=("sites",),
    ),
    Law(
        "minibatch",
        "A cell's laws do not depend on which cells share its minibatch.",
        "let no mean, norm or batch normalisation run over the axis of cells",
        _each(_minibatch),
        needs=("permutation",),
    ),
    Law(
        "masked",
        "Values that nobody observed do not move the bound.",
        "set to zero what a guide encodes of slots where batch.observed is False",
        _each(_masked),
        needs=("sites",),
    ),
    Law(
        "gradients",
        "Every parameter has a finite gradient.",
        "drop the parameter, or use it; bound an exp, and keep log and sqrt away from zero",
        _gradients,
        needs=("sites",),
    ),
    Law(
        "empty",
        "Silent genes, empty cells and empty minibatches give a finite bound.",
        "divide by nothing that can be zero, and take no spread over a single cell",
        _each(_empty),
        needs=("gradients",),
    ),
    Law(
        "dims",
        "What dims and coords say of the global sites fits them, and the export runs.",
        "name each axis of a site, by one that is as long, or leave the site out of dims",
        _each(_dims),
        needs=("vectorised", "prediction"),
        of_guides=False,
    ),
    Law(
        "control",
        "do() predicts what the control's own schedule does.",
        "keep no state on the model between runs",
        _each(_control),
        needs=("vectorised", "prediction"),
    ),
    Law(
        "paired",
        "Two schedules share every draw before they part.",
        "draw random numbers by pyro.sample alone, as many under every dose",
        _each(_paired),
        needs=("vectorised", "initial", "causality", "dims", "control"),
    ),
    Law(
        "fitted",
        "A pass of training ends.",
        "see where with cv.fit(model, guide, cv.simulate().data), which copies both and draws layers anew",
        _fitted,
        needs=("gradients", "empty"),
    ),
    Law(
        "saved",
        "Saving and loading gives equal draws.",
        "take settings as arguments that JSON can hold, and keep every tensor as a parameter or a buffer",
        _saved,
        needs=("fitted", "control"),
    ),
    Law(
        "capturable",
        "A training step asks the device nothing, so that a GPU can replay it.",
        "keep numbers as tensors (no .item(), float() or if on a value), and pick by position, not by a mask",
        _each(_capturable),
        needs=("gradients",),
        advice=True,
    ),
)
