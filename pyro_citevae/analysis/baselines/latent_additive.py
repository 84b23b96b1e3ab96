"""A small neural baseline: a control cell's code plus a perturbation's code, decoded."""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from pyro_citevae.analysis.baselines.context_table import ContextTable
from pyro_citevae.analysis.baselines.effect_table import EffectTable
from pyro_citevae.analysis.baselines.on_features import Features
from pyro_citevae.analysis.baselines.rules import Baseline, independent, left_over, without_noise
from pyro_citevae.data.interventions import Schedule
from pyro_citevae.data.pseudobulk import profile
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.infer.seeding import seeded

__all__ = ["LatentAdditive"]

_MOST_CONTROLS = 500


@final
class LatentAdditive(Baseline):
    r"""``x ~ Multinomial(N, softmax(f(e(x_control) + g(p) + h_t)))``: codes that add up, then one decoder.

    ::

        e  encoder of a control cell's log1p counts at the common total
        g  encoder of the perturbation: its dose of each token, and the summed features of the tokens
        h  a code for each training time; a later time has the last one's

    Trained on random pairs of a cell and a control cell of its time and context. The effect is that on the
    pseudobulk of the controls' means. A token that was never trained on has no code of its own, only that of
    its features. Residuals are those of refits that leave out a fold of the perturbations, five folds in all,
    less the sampling noise as in :class:`EffectRule`. With a context, the effect is that on its controls, and
    the refits leave out the other contexts' perturbed cells, a context at a time.

    Args:
        data: Training cells.
        features: Features of the genes; None for the doses alone.
        hidden: Width of the hidden layers.
        latent: Size of the codes.
        steps: Training steps of 128 pairs.
        folds: Number of refits for the residuals, where no context is named.
        seed: Seed of weights, pairs and folds.
        context: Context to predict in; None for the controls of all.

    Source: Y. Wu et al., PerturBench: Benchmarking Machine Learning Models for Cellular Perturbation Analysis
    (2024), whose latent additive model has a Gaussian loss on log-normalised cells.
    """

    name = "latent additive"

    def __init__(
        self,
        data: Trajectories,
        features: Features | None = None,
        *,
        hidden: int = 64,
        latent: int = 32,
        steps: int = 600,
        folds: int = 5,
        seed: int = 0,
        context: str | None = None,
    ) -> None:
        super().__init__(data)
        self.settings = {"hidden": hidden, "latent": latent, "steps": steps, "seed": seed}
        self.features, self.folds, self.seed = features, folds, seed
        self.context = context
        self.contexts = None if context is None else ContextTable.of(data, context)
        self.table = EffectTable.of(data) if self.contexts is None else self.contexts.effects
        self.network = _Network.trained(data, features, hidden, latent, steps, seed)
        self._residuals: np.ndarray | None = None

    def delta(self, schedule: Schedule, time: float) -> Float[np.ndarray, " gene"]:
        """The network's effect on the pseudobulk of the training controls."""
        return self.network.delta(schedule, time, self.context)

    def residuals(self, schedule: Schedule, time: float) -> Float[np.ndarray, "residual gene"]:
        """Residuals of networks not trained on the perturbation, or not in the context; at the last time."""
        if self._residuals is None:
            known = self.contexts
            self._residuals = (
                self._without_perturbations() if known is None else self._without_contexts(known)
            )
        return self._residuals

    def _without_contexts(self, known: ContextTable) -> Float[np.ndarray, "residual gene"]:
        last = known.effects.times.max()
        perturbed, of = self.data.labels != self.schema.control, np.array(self.schema.contexts, dtype=object)
        tried = []
        for name in dict.fromkeys(known.contexts.tolist()):
            kept = ~(perturbed & (of[self.data.context] == name))
            if not (kept & perturbed).any():
                continue
            network = _Network.trained(self.data.cells(np.flatnonzero(kept)), self.features, **self.settings)
            for i in np.flatnonzero((known.contexts == name) & (known.effects.times == last)).tolist():
                predicted = network.delta(known.effects.schedules[i], float(last), name)
                tried.append((i, known.effects.delta[i] - predicted))
        return left_over(known.effects, tried, 1)

    def _without_perturbations(self) -> Float[np.ndarray, "residual gene"]:
        table = self.table.at(float(self.table.times.max()))
        labels = np.array(sorted(set(table.labels)), dtype=object)
        folds = min(self.folds, len(labels))
        if folds < 2:
            return independent(table.variance.mean(0))
        of = np.random.default_rng(self.seed).permutation(len(labels)) % folds
        found = np.zeros_like(table.delta)
        for fold in range(folds):
            hidden = set(labels[of == fold])
            kept = self.data.rows(np.array([one not in hidden for one in self.data.row_labels]))
            network = _Network.trained(kept, self.features, **self.settings)
            for i, label in enumerate(table.labels):
                if label in hidden:
                    predicted = network.delta(table.schedules[i], float(table.times[i]))
                    found[i] = table.delta[i] - predicted
        return without_noise(found, table.variance, ~table.own)


class _Network(nn.Module):
    """Encoders and decoder, with the controls that effects are predicted on."""

    def __init__(self, data: Trajectories, features: Features | None, hidden: int, latent: int) -> None:
        super().__init__()
        schema = data.schema
        described = np.zeros((schema.n_tokens, 0))
        if features is not None:
            values = np.asarray(features.values, dtype=float)
            row = {gene: values[i] for i, gene in enumerate(features.genes)}
            described = np.array([row.get(one, np.zeros(values.shape[1])) for one in schema.tokens])
        self.schema, self.times = schema, np.unique(data.row_times)
        self.described = torch.tensor(described, dtype=torch.float32)
        self.encoder = _layers(schema.n_genes, hidden, latent)
        self.code = nn.Linear(schema.n_tokens, latent, bias=False)
        self.features = _layers(described.shape[1], hidden, latent) if described.size else None
        self.clock = nn.Embedding(len(self.times), latent)
        self.decoder = _layers(latent, hidden, schema.n_genes)
        nn.init.zeros_(self.code.weight)
        nn.init.zeros_(self.clock.weight)
        self.controls: dict[tuple[int, int], Tensor] = {}  # by time and context

    @classmethod
    def trained(
        cls,
        data: Trajectories,
        features: Features | None,
        hidden: int,
        latent: int,
        steps: int,
        seed: int,
        pairs: int = 128,
    ) -> _Network:
        """Fits a network to pairs of a cell and a control of its time and context."""
        with seeded(seed), torch.inference_mode(False):
            network = cls(data, features, hidden, latent)
            rng = np.random.default_rng(seed)
            time = np.searchsorted(network.times, data.row_times)
            doses = np.stack([data.schema.doses(one, data.schema.n_steps)[-1] for one in data.conditions])
            context = data.context[data.row_cell]
            n_contexts = max(1, data.schema.n_contexts)
            place = time * n_contexts + context
            controls = [
                np.flatnonzero((data.row_labels == data.schema.control) & (place == one))
                for one in range(len(network.times) * n_contexts)
            ]
            usable = np.flatnonzero(np.array([len(one) > 0 for one in controls])[place])
            network.controls = {
                divmod(one, n_contexts): network.read(_dense(data, rows[:: -(-len(rows) // _MOST_CONTROLS)]))
                for one, rows in enumerate(controls)
                if len(rows)
            }
            optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
            for _ in range(steps):
                rows = usable[rng.integers(len(usable), size=pairs)]
                partner = np.array([controls[t][rng.integers(len(controls[t]))] for t in place[rows]])
                u = torch.from_numpy(doses[data.condition[data.row_cell[rows]]])
                made = network(network.read(_dense(data, partner)), u, torch.from_numpy(time[rows]))
                loss = network.loss(made, _dense(data, rows))
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
        return network.eval()

    def read(self, x: Float[Tensor, "row gene"]) -> Float[Tensor, "row gene"]:
        """What the encoder sees of cells."""
        if self.schema.values == "real":
            return x
        return torch.log1p(self.schema.panel_total * x / x.sum(-1, keepdim=True).clamp(min=1.0))

    def forward(
        self, controls: Float[Tensor, "row gene"], u: Float[Tensor, "row token"], time: Tensor
    ) -> Float[Tensor, "row gene"]:
        """Logits, or means of real values, of perturbed cells."""
        code = self.encoder(controls) + self.code(u) + self.clock(time)
        if self.features is not None:
            code = code + self.features(u @ self.described) * (u.sum(-1, keepdim=True) > 0)
        return self.decoder(code)

    def loss(self, made: Float[Tensor, "row gene"], x: Float[Tensor, "row gene"]) -> Tensor:
        """Cross entropy of the counts in nats a count, or squared error of real values."""
        if self.schema.values == "real":
            return ((made - x) ** 2).mean()
        return -(x * torch.log_softmax(made, -1)).sum() / x.sum().clamp(min=1.0)

    def delta(
        self, schedule: Schedule, time: float, context: str | None = None
    ) -> Float[np.ndarray, " gene"]:
        """Effect on the pseudobulk of the controls of the last training time that is not after a time."""
        there = [(t, c) for t, c in self.controls if context is None or c == self.schema.context_of(context)]
        known = [t for t, _ in there if self.times[t] <= time] or [min(t for t, _ in there)]
        controls = torch.cat([self.controls[t, c] for t, c in there if t == max(known)])
        doses = torch.from_numpy(self.schema.doses(schedule, self.schema.n_steps)[-1])
        at = torch.full((len(controls),), max(known))
        with torch.no_grad():
            both = [self(controls, u.expand(len(controls), -1), at) for u in (doses, 0 * doses)]
        if self.schema.values == "real":
            return np.asarray((both[0] - both[1]).mean(0).numpy(), dtype=float)
        sums = [torch.softmax(one, -1).sum(0).numpy().astype(float) for one in both]
        return profile(sums[0], self.schema.panel_total) - profile(sums[1], self.schema.panel_total)


def _layers(n: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n, hidden), nn.ReLU(), nn.Linear(hidden, out))


def _dense(data: Trajectories, rows: np.ndarray) -> Float[Tensor, "row gene"]:
    return torch.from_numpy(data.values[rows].toarray().astype(np.float32))
