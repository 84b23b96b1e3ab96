"""Small screens with a known lag graph, known effects and known noise: the fixture of every test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy import sparse

from pyro_citevae import arguments
from pyro_citevae.data.interventions import Schedule, do
from pyro_citevae.data.pseudobulk import profile
from pyro_citevae.data.schema import Schema, StudyDesign, Values
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import DataError
from pyro_citevae.renamed import renamed_arguments
from pyro_citevae.shown import Shown

__all__ = ["Simulation", "Truth", "simulate"]

_RANK = 2  # of the interactions
_PLANE = 2  # directions in which contexts differ


@dataclass(frozen=True)
class Truth:
    """What generated a simulated screen; symbols as in :class:`pyro_citevae.models.CiteVAE`.

    Attributes:
        A: Lag graph: entry [l, k, j] says whether program j drives program k at lag l + 1.
        W: Weight of each edge.
        a: Shift of each token on each program.
        b: Change of the log noise scale.
        v: Loading of each token on each factor of the interactions.
        w: What a factor of the interactions shifts, ``interaction`` included.
        decay: Share of a state that a step loses.
        sigma: Noise scale of the transition.
        loading: Log-expression (or value) of each gene for one unit of a program.
        intercept: Baseline of each gene.
        z: States of the cells at every step of length one, whichever of them are observed.
        saturating: Whether a program's influence is bounded (tanh).
        start: Where the programs of each context start.
        baseline: How far each context's log-expression lies from the intercept.
        a_context: Shift of each token on each program in each context.
    """

    A: Bool[np.ndarray, "lag program program"]
    W: Float[np.ndarray, "lag program program"]
    a: Float[np.ndarray, "token program"]
    b: Float[np.ndarray, "token program"]
    v: Float[np.ndarray, "token rank"]
    w: Float[np.ndarray, "rank program"]
    decay: float
    sigma: float
    loading: Float[np.ndarray, "program gene"]
    intercept: Float[np.ndarray, " gene"]
    z: Float[np.ndarray, "step cell program"]
    saturating: bool = False
    start: Float[np.ndarray, "context program"] | None = None
    baseline: Float[np.ndarray, "context gene"] | None = None
    a_context: Float[np.ndarray, "context token program"] | None = None

    def of_context(self, c: int | None) -> Truth:
        """What generates cells of a context; of the mean of all if None."""
        if self.a_context is None or self.baseline is None or c is None:
            return self
        return replace(self, a=self.a_context[c], intercept=self.intercept + self.baseline[c])


@dataclass(frozen=True, repr=False)
class Simulation(Shown):
    """A simulated data set with its truth.

    Attributes:
        data: The cells.
        truth: What generated them.
    """

    data: Trajectories
    truth: Truth

    def facts(self) -> dict[str, str]:
        """What its data say of themselves."""
        return self.data.facts()

    def effects(
        self,
        schedules: Sequence[Schedule | str],
        time: float,
        *,
        n_cells: int = 20_000,
        seed: int = 0,
        context: str | None = None,
    ) -> Float[np.ndarray, "perturbation gene"]:
        """True effects against the control: differences of profiles of a large population without noise.

        Args:
            schedules: Schedules, or labels such as ``"gene_0+gene_1"``.
            time: Time, in steps of length one.
            n_cells: Cells of the population.
            seed: Seed of its states.
            context: Context of the population, where the data have some.

        Example:
            >>> simulation = simulate(n_cells=60, n_inert=1, n_perturbations=2)
            >>> effects = simulation.effects(["gene_0", "gene_1"], time=4.0)
            >>> bool(abs(effects[0]).max() > 0.1), float(abs(effects[1]).max())
            (True, 0.0)
        """
        schema = self.data.schema
        asked = [one if isinstance(one, Schedule) else schema.schedule(one) for one in schedules]
        where = None if context is None else schema.context_of(context)
        control, *levels = (self._level(one, int(time), n_cells, seed, where) for one in (do(), *asked))
        return np.array(levels) - control

    def features(self, *, noise: float = 0.5, seed: int = 0) -> pd.DataFrame:
        """What could be known of the tokens' genes: noisy readings of what each shifts.

        ``F_pj = (a_pj + noise s e_pj) / s`` with ``e_pj ~ N(0, 1)`` and s the root mean square of a, so that
        genes that are alike here shift alike, as annotations of real genes promise and half keep.

        Args:
            noise: Size of the noise beside what is told.
            seed: Seed of the noise.

        Returns:
            A row a token and a column a program, as :func:`pyro_citevae.data.from_table` takes them.

        Example:
            >>> simulate(n_cells=60, n_perturbations=4).features().shape
            (4, 3)
        """
        told = self.truth.a / max(float(np.sqrt((self.truth.a**2).mean())), 1e-12)
        rng = np.random.default_rng((seed, 3))
        columns = [f"feature_{j}" for j in range(told.shape[1])]
        return pd.DataFrame(told + noise * rng.normal(size=told.shape), self.data.schema.tokens, columns)

    def _level(
        self, schedule: Schedule, step: int, n_cells: int, seed: int, context: int | None
    ) -> Float[np.ndarray, " gene"]:
        """The profile of a population under a schedule, without noise of measurement."""
        truth, schema = self.truth.of_context(context), self.data.schema
        doses = replace(schema, grid=()).doses(schedule, step)
        states = np.zeros((step + 1, n_cells, len(truth.w.T)))
        u = np.broadcast_to(doses[None], (n_cells, *doses.shape))
        start = 0.0 if truth.start is None or context is None else truth.start[context]
        _walk(replace(truth, z=states), u, np.random.default_rng(seed), start)
        eta = truth.intercept + states[step] @ truth.loading
        if schema.values == "real":
            return np.asarray(eta.mean(0))
        return profile(
            np.exp(eta - np.logaddexp.reduce(eta, axis=1, keepdims=True)).sum(0), schema.panel_total
        )


@renamed_arguments(layout="design")
def simulate(
    *,
    n_cells: int = 500,
    n_genes: int = 30,
    n_programs: int = 3,
    n_perturbations: int = 5,
    n_inert: int = 0,
    n_lags: int = 1,
    n_steps: int = 4,
    times: tuple[int, ...] = (),
    design: StudyDesign = "time course",
    values: Values = "counts",
    combinations: tuple[str, ...] = (),
    edge_share: float = 0.3,
    edge_weight: tuple[float, float] = (0.2, 0.4),
    saturating: bool = False,
    decay: float = 0.4,
    effect: float = 1.0,
    scale_change: float = 0.0,
    interaction: float = 0.0,
    sigma: float = 0.3,
    library: float = 500.0,
    dispersion: float = 10.0,
    noise: float = 0.5,
    n_contexts: int = 1,
    context_start: float = 0.0,
    context_baseline: float = 0.0,
    context_mechanism: float = 0.0,
    seed: int = 0,
) -> Simulation:
    """Draws a screen from a lagged process with sparse edges and sparse targets.

    ``z_0 ~ N(0, I)``;
    ``z_t ~ N((1 - decay) z_{t-1} + sum_l (A_l W_l) f(z_{t-l}) + u_t a + pairs, sigma exp(u_t b))`` with
    ``pairs = sum_{p < q} u_tp u_tq sum_r v_pr v_qr w_r`` and f the identity, or tanh if ``saturating`` as in
    :class:`pyro_citevae.models.CiteVAE`;
    ``x ~ NB(library softmax(intercept + z loading), dispersion)`` or ``N(intercept + z loading, noise)``.

    Contexts differ by ``z_0 ~ N(start_c, I)``, ``intercept + baseline_c`` and ``a_c = a + deviation_c``. The
    kind of a context is a point of a plane, and all three are linear in it: contexts of one kind start,
    express and respond alike.

    Args:
        n_cells: Number of cells.
        n_genes: Number of genes; the tokens are the first of them.
        n_programs: Number of programs.
        n_perturbations: Number of tokens, named ``gene_0``, ``gene_1``, ...
        n_inert: How many of them, the last ones, change nothing.
        n_lags: Number of lags.
        n_steps: Number of latent steps.
        times: Steps after which cells are observed, such as (1, 2, 5, 12), if not after each of n_steps. The
            process goes on by steps of length one; the schema's grid has the observed ones alone.
        design: ``"snapshot"``, ``"time course"`` or ``"sequences"``.
        values: ``"counts"`` or ``"real"``.
        combinations: Labels such as ``"gene_0+gene_1"`` that get cells of their own.
        edge_share: Share of the possible edges that exist.
        edge_weight: Range of the edges' absolute weights.
        saturating: Let a program's influence be bounded (tanh).
        decay: Share of a state that a step loses.
        effect: Size of a token's shift on its targets.
        scale_change: Spread of the changes of log noise scale.
        interaction: Size of what two tokens given together shift beside their own shifts, of rank 2.
        sigma: Noise scale of the transition.
        library: Mean library size.
        dispersion: Inverse dispersion of the counts.
        noise: Standard deviation of real values.
        n_contexts: Number of contexts, named ``context_0``, ..., with as many cells of each perturbation.
        context_start: Spread of the states that contexts start in.
        context_baseline: Spread of their baselines, natural log.
        context_mechanism: Spread of what a token shifts in a context, beside its shift everywhere.
        seed: Seed.

    Returns:
        The data and its truth.

    Raises:
        DataError: There are fewer genes than tokens or fewer tokens than inert ones, the times do not
            increase from 1, or the seed is out of range.

    Example:
        >>> simulation = simulate(n_cells=60, design="sequences", seed=1)
        >>> simulation.data.n_observations
        240
        >>> simulation.truth.z.shape
        (5, 60, 3)
    """
    seed = arguments.seed(seed, "simulate(seed=...)")
    if n_genes < n_perturbations:
        raise DataError(f"n_genes={n_genes} is below n_perturbations={n_perturbations}; give more genes.")
    if not 0 <= n_inert <= n_perturbations:
        raise DataError(f"n_inert={n_inert} must lie between 0 and n_perturbations={n_perturbations}.")
    if list(times) != sorted({time for time in times if time >= 1}):
        raise DataError(f"times={times} do not increase from 1; give the steps to observe in their order.")
    seen = times or tuple(range(1, n_steps + 1))
    rng = np.random.default_rng(seed)
    genes = tuple(f"gene_{g}" for g in range(n_genes))
    schema = Schema(
        genes=genes,
        tokens=genes[:n_perturbations],
        times=tuple(map(float, seen[-1:] if design == "snapshot" else seen)),
        grid=tuple(map(float, times)),
        design=design,
        values=values,
        total=library if values == "counts" else 1.0,
    )
    A = rng.random((n_lags, n_programs, n_programs)) < edge_share
    a = rng.normal(0, effect, (n_perturbations, n_programs))
    a *= rng.random(a.shape) < 2 / n_programs
    other = np.random.default_rng((seed, 1))  # so that the rest is drawn as without interactions
    truth = Truth(
        A=A,
        W=A * rng.choice([-1, 1], A.shape) * rng.uniform(*edge_weight, A.shape),
        a=a,
        b=rng.normal(0, scale_change, a.shape),
        v=other.normal(0, 1.0, (n_perturbations, _RANK)),
        w=other.normal(0, interaction / _RANK**0.5, (_RANK, n_programs)),
        decay=decay,
        sigma=sigma,
        loading=rng.normal(0, 0.7, (n_programs, n_genes)) * (rng.random((n_programs, n_genes)) < 0.6),
        intercept=rng.normal(0, 0.7, n_genes),
        z=np.zeros((seen[-1] + 1, n_cells, n_programs)),
        saturating=saturating,
    )
    for change in (truth.a, truth.b, truth.v):
        change[n_perturbations - n_inert :] = 0.0
    if n_contexts > 1:
        spreads = (context_start, context_baseline, context_mechanism)
        truth = _in_contexts(truth, n_contexts, spreads, n_inert, np.random.default_rng((seed, 2)))
        schema = replace(schema, contexts=tuple(f"context_{c}" for c in range(n_contexts)))
    conditions = (do(), *(do(token) for token in schema.tokens), *map(Schedule.parse, combinations))
    condition = np.sort(np.arange(n_cells) % len(conditions))
    context = np.arange(n_cells) % n_contexts
    u = np.stack([replace(schema, grid=()).doses(one, seen[-1]) for one in conditions])[condition]
    start: np.ndarray | float = 0.0 if truth.start is None else truth.start[context]
    a = truth.a if truth.a_context is None else truth.a_context[context]
    _walk(truth, u, rng, start, a)
    intercept = truth.intercept if truth.baseline is None else truth.intercept + truth.baseline[context]
    data = _observe(schema, truth, conditions, condition, intercept, library, dispersion, noise, rng)
    return Simulation(replace(data, context=context), truth)


def _in_contexts(
    truth: Truth,
    n_contexts: int,
    spreads: tuple[float, float, float],
    n_inert: int,
    rng: np.random.Generator,
) -> Truth:
    """The truth with contexts, whose starts, baselines and mechanisms are linear in a point of a plane."""
    kind = rng.normal(size=(n_contexts, _PLANE)) / _PLANE**0.5
    start, baseline, mechanism = spreads
    P, K = truth.a.shape
    deviation = mechanism * np.einsum("cr,rpk->cpk", kind, rng.normal(size=(_PLANE, P, K)))
    deviation *= truth.a != 0
    deviation[:, P - n_inert :] = 0.0
    return replace(
        truth,
        start=start * kind @ rng.normal(size=(_PLANE, K)),
        baseline=baseline * kind @ rng.normal(size=(_PLANE, len(truth.intercept))),
        a_context=truth.a + deviation,
    )


def _walk(
    truth: Truth,
    u: np.ndarray,
    rng: np.random.Generator,
    start: Float[np.ndarray, "#cell program"] | float = 0.0,
    a: Float[np.ndarray, "*cell token program"] | None = None,
) -> None:
    """Fills ``truth.z`` step by step, from a start and by shifts that may be each cell's own."""
    z, f = truth.z, np.tanh if truth.saturating else np.asarray
    z[0] = start + rng.normal(size=z[0].shape)
    a = truth.a if a is None else a
    for t in range(1, len(z)):
        drift = sum(f(z[t - lag]) @ truth.W[lag - 1].T for lag in range(1, min(t, len(truth.W)) + 1))
        scale = truth.sigma * np.exp(u[:, t] @ truth.b)
        # sum_{p < q} u_p v_p u_q v_q = ((u v)^2 - u^2 v^2) / 2, factor by factor
        pairs = ((u[:, t] @ truth.v) ** 2 - u[:, t] ** 2 @ truth.v**2) / 2
        own = u[:, t] @ a if a.ndim == 2 else np.einsum("np,npk->nk", u[:, t], a)
        shift = own + pairs @ truth.w
        z[t] = (1 - truth.decay) * z[t - 1] + drift + shift + scale * rng.normal(size=z[t].shape)


def _observe(
    schema: Schema,
    truth: Truth,
    conditions: tuple[Schedule, ...],
    condition: np.ndarray,
    intercept: Float[np.ndarray, "*cell gene"],
    library: float,
    dispersion: float,
    noise: float,
    rng: np.random.Generator,
) -> Trajectories:
    """Draws the observed values of each cell at its time or times."""
    n_steps, n_cells = schema.n_steps, truth.z.shape[1]
    row_step: np.ndarray
    if schema.design == "sequences":
        row_cell = np.repeat(np.arange(n_cells), n_steps)
        row_step = np.tile(np.arange(1, n_steps + 1), n_cells)
    else:
        row_cell = np.arange(n_cells)
        row_step = np.full(n_cells, n_steps)
        if schema.design == "time course":
            row_step = np.asarray(rng.integers(1, n_steps + 1, n_cells))
    walked = schema.ends(n_steps).astype(int)[row_step]
    baseline = intercept if intercept.ndim == 1 else intercept[row_cell]
    eta = baseline + truth.z[walked, row_cell] @ truth.loading
    if schema.values == "real":
        size, x = np.ones(len(eta)), eta + noise * rng.normal(size=eta.shape)
    else:
        share = np.exp(eta - np.logaddexp.reduce(eta, axis=1, keepdims=True))
        depth = rng.lognormal(np.log(library), 0.2, (len(eta), 1))
        x = rng.poisson(rng.gamma(dispersion, depth * share / dispersion)).astype(float)
        size = depth[:, 0]
    return Trajectories(
        schema=schema,
        values=sparse.csr_matrix(x.astype(np.float32)),
        library=size.astype(np.float32),
        row_cell=row_cell,
        row_step=row_step,
        conditions=conditions,
        condition=condition,
        technical=np.zeros(n_cells, dtype=np.int64),
        names=np.array([f"cell_{n}" for n in range(n_cells)]),
    )
