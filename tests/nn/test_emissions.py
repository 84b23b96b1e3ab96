"""Emissions against the closed forms of scipy, at ordinary and at extreme means."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from pyro import poutine
from scipy import stats
from torch import Tensor

import pyro_citevae as cv
from pyro_citevae.errors import ModelError
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.models import CiteVAE, StaticShift
from pyro_citevae.nn.emissions import Emission

FAMILIES = {"negative_binomial": "counts", "zero_inflated": "counts", "poisson": "counts", "gaussian": "real"}
COUNTS = [family for family, values in FAMILIES.items() if values == "counts"]
FAMILY = pytest.mark.parametrize("family", FAMILIES)
LOG_MEANS = np.array([-20.0, -8.0, -2.0, 0.0, 1.5, 5.0, 9.0, 12.0])
LOG_LIBRARY = 13.0
OBSERVED = np.array([0.0, 1.0, 2.0, 7.0, 300.0, 20_000.0, 3_000_000.0])


def made(family: str, n_genes: int = len(LOG_MEANS), dtype: torch.dtype = torch.float64) -> Emission:
    """An emission whose parameters differ between genes."""
    emission = Emission(FAMILIES[family], n_genes, family).to(dtype)
    with torch.no_grad():
        for i, parameter in enumerate(emission.parameters()):
            parameter.copy_(torch.linspace(-1.5 - i, 2.5 - i, n_genes, dtype=dtype))
    return emission


def logits(dtype: torch.dtype = torch.float64) -> Tensor:
    """Logits of genes with the means above, and of the unmeasured rest of the library."""
    shares = LOG_MEANS - LOG_LIBRARY
    return torch.tensor([*shares, np.log1p(-np.exp(shares).sum())], dtype=dtype)


def law(family: str, dtype: torch.dtype = torch.float64) -> cv.program.Distribution:
    library = torch.tensor(LOG_LIBRARY, dtype=dtype).exp()
    return made(family, dtype=dtype)(logits(dtype), library)


def by_gene(one: cv.program.Distribution) -> cv.program.Distribution:
    """The law with genes as a batch axis, to read each gene's own log probability."""
    return one.base_dist


def exact(family: str, x: np.ndarray, shift: float = LOG_LIBRARY) -> np.ndarray:
    """Log probability of x (value, 1) under each gene's law, by scipy."""
    parameters = {name: value.detach().numpy() for name, value in made(family).named_parameters()}
    mu = np.exp(LOG_MEANS)
    if family == "gaussian":
        return stats.norm.logpdf(x, LOG_MEANS - shift, np.exp(parameters["log_scale"]))
    if family == "poisson":
        return stats.poisson.logpmf(x, mu)
    theta = np.exp(parameters["log_theta"])
    counts = stats.nbinom.logpmf(x, theta, theta / (theta + mu))
    if family == "negative_binomial":
        return counts
    gate = parameters["gate_logits"]
    log_pi, log_rest = -np.logaddexp(0, -gate), -np.logaddexp(0, gate)
    return np.where(x == 0, np.logaddexp(log_pi, log_rest + counts), log_rest + counts)


@FAMILY
def test_the_log_probability_is_that_of_scipy_at_every_mean_and_count(family: str) -> None:
    x = OBSERVED[:, None] if family != "gaussian" else np.array([-40.0, -3.0, 0.0, 0.7, 900.0])[:, None]
    found = by_gene(law(family)).log_prob(torch.from_numpy(x).expand(-1, len(LOG_MEANS)))
    np.testing.assert_allclose(found.detach().numpy(), exact(family, x), rtol=1e-8, atol=1e-8)


@FAMILY
def test_single_precision_holds_at_every_mean_and_count(family: str) -> None:
    x = torch.from_numpy(OBSERVED)[:, None].expand(-1, len(LOG_MEANS))
    found = by_gene(law(family, torch.float32)).log_prob(x.float()).detach().double()
    true = by_gene(law(family)).log_prob(x).detach()
    # terms as large as x log x cancel, so the error is a share of these and not of the result
    size = 1 + x * (1 + x).log()
    assert found.isfinite().all()
    assert ((found - true).abs() / (size + true.abs())).max() < 2e-6


@FAMILY
def test_the_genes_are_one_event_and_add_up(family: str) -> None:
    one = law(family)
    x = torch.full((5, len(LOG_MEANS)), 2.0, dtype=torch.float64)
    assert (one.batch_shape, one.event_shape) == ((), (len(LOG_MEANS),))
    torch.testing.assert_close(one.log_prob(x), by_gene(one).log_prob(x).sum(-1))


@FAMILY
def test_the_gradient_reaches_every_parameter_and_is_that_of_the_value(family: str) -> None:
    emission, n = made(family), len(LOG_MEANS)
    x = torch.tensor([0.0, 0.0, 1.0, 0.0, 3.0, 150.0, 0.0, 90_000.0], dtype=torch.float64)
    if family == "gaussian":
        x = x.tanh()
    given = [logits().requires_grad_(), *emission.parameters()]

    def value(*_: Tensor) -> Tensor:
        return emission(given[0], torch.tensor(LOG_LIBRARY, dtype=torch.float64).exp()).log_prob(x) / 1e3

    assert torch.autograd.gradcheck(value, given, rtol=1e-4, atol=1e-6)
    value().backward()
    for one in given[1:]:
        assert one.grad.shape == (n,)
        assert (one.grad != 0).all()


@FAMILY
@pytest.mark.parametrize("gap", [20.0, 300.0])
def test_values_and_gradients_stay_finite_where_a_gene_is_all_but_excluded(family: str, gap: float) -> None:
    emission = made(family, 2, torch.float32)
    free = torch.tensor([0.0, -gap], requires_grad=True)
    for x in ([3.0, 0.0], [3.0, 40.0], [5e6, 0.0]):
        found = emission(free, torch.tensor(1000.0)).log_prob(torch.tensor(x))
        gradients = torch.autograd.grad(found, [free, *emission.parameters()])
        assert found.isfinite()
        assert all(one.isfinite().all() for one in gradients)


@FAMILY
def test_draws_have_the_mean_and_the_variance(family: str) -> None:
    torch.manual_seed(1)
    emission, n = made(family, 4), 200_000
    one = emission(torch.tensor([0.0, 1.0, -1.0, 0.5], dtype=torch.float64), torch.tensor(30.0).double())
    x = one.sample(torch.Size([n]))
    assert x.shape == (n, 4)
    assert ((x.mean(0) - one.mean).abs() < 5 * (one.variance / n).sqrt()).all()
    spread = (x - one.mean).square()
    assert ((spread.mean(0) - one.variance).abs() < 5 * spread.std(0) / n**0.5).all()


@pytest.mark.parametrize("family", COUNTS)
def test_counts_are_whole_numbers_within_the_support(family: str) -> None:
    torch.manual_seed(2)
    x = law(family, torch.float32).sample(torch.Size([500]))
    assert x.eq(x.round()).all()
    assert x.ge(0).all()
    assert law(family, torch.float32).log_prob(x).isfinite().all()


def test_zero_inflation_takes_its_share_of_the_counts() -> None:
    emission = made("zero_inflated", 3)
    with torch.no_grad():
        emission.log_theta.fill_(3.0)
    one = emission(torch.zeros(3).double(), torch.tensor(3e6).double())  # no zero by the counts alone
    torch.manual_seed(3)
    lost = one.sample(torch.Size([20_000])).eq(0).double().mean(0)
    share = emission.gate_logits.sigmoid()
    assert ((lost - share).abs() < 5 * (share * (1 - share) / 20_000).sqrt()).all()


@pytest.mark.parametrize("family", COUNTS)
def test_a_library_is_shared_among_the_genes(family: str) -> None:
    emission = made(family, 5)
    with torch.no_grad():
        if family == "zero_inflated":
            emission.gate_logits.fill_(-60.0)
        mean = emission(torch.randn(7, 5).double(), torch.linspace(1, 9000, 7).double()).mean
        with_rest = emission(torch.randn(7, 6).double(), torch.linspace(1, 9000, 7).double()).mean
    torch.testing.assert_close(mean.sum(-1), torch.linspace(1, 9000, 7).double())
    assert (with_rest.sum(-1) < torch.linspace(1, 9000, 7).double()).all()


@pytest.mark.parametrize("family", COUNTS)
def test_a_common_shift_of_the_logits_changes_nothing(family: str) -> None:
    emission, free, library = made(family, 5), torch.randn(3, 5).double(), torch.full((3,), 50.0).double()
    x = torch.ones(3, 5).double()
    torch.testing.assert_close(
        emission(free, library).log_prob(x), emission(free + 7, library).log_prob(x), rtol=1e-9, atol=0
    )


@FAMILY
def test_draws_of_the_states_broadcast_against_cells(family: str) -> None:
    emission = made(family, 4, torch.float32)
    wide, library = torch.randn(6, 2, 3, 4), torch.rand(2, 3) * 100 + 1
    one = emission(wide, library)
    x = one.sample()[0]
    assert (one.batch_shape, one.event_shape) == ((6, 2, 3), (4,))
    each = torch.stack([emission(draw, library).log_prob(x) for draw in wide])
    torch.testing.assert_close(one.log_prob(x), each)
    expanded = emission(wide[0], library).expand((6, 2, 3))
    torch.testing.assert_close(expanded.log_prob(x), each[0].expand(6, 2, 3))


@FAMILY
def test_a_mask_leaves_a_cell_out_of_the_value_and_of_the_gradient(family: str) -> None:
    emission = made(family, 3, torch.float32)
    free = torch.randn(4, 3, requires_grad=True)
    observed = torch.tensor([True, False, True, False])
    trace = poutine.trace(
        lambda: cv.program.pyro.sample(
            "x", emission(free, torch.full((4,), 20.0)).mask(observed), obs=torch.ones(4, 3)
        )
    ).get_trace()
    site = trace.nodes["x"]
    found = site["fn"].log_prob(site["value"])
    assert found[~observed].eq(0).all()
    assert found[observed].ne(0).all()
    (gradient,) = torch.autograd.grad(found.sum(), free)
    assert gradient[~observed].eq(0).all()
    assert gradient[observed].ne(0).any()


@pytest.mark.parametrize(("values", "family"), [("counts", "negative_binomial"), ("real", "gaussian")])
def test_the_values_choose_the_family_if_nobody_does(values: str, family: str) -> None:
    assert Emission(values, 3).family == family


@pytest.mark.parametrize(
    ("values", "family", "message"),
    [
        ("real", "poisson", "emission='poisson' does not fit.*values='real'; name one of gaussian"),
        ("real", "negative_binomial", "emission='negative_binomial' does not fit.*name one of gaussian"),
        ("counts", "gaussian", "'gaussian' does not fit.*one of negative_binomial, zero_inflated, poisson"),
        ("counts", "gamma", "emission='gamma' does not fit a schema of values='counts'"),
    ],
)
def test_a_family_unfit_for_the_values_is_refused(values: str, family: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Emission(values, 3, family)
    schema = cv.simulate(n_cells=20, n_genes=5, n_perturbations=2, values=values).data.schema
    for model in (CiteVAE, StaticShift):
        with pytest.raises(ModelError, match=message):
            model(schema, n_programs=2, emission=family)


MODELS: dict[str, Callable] = {
    "CiteVAE": lambda schema, family: CiteVAE(schema, n_programs=2, n_invariant=1, hidden=4, emission=family),
    "StaticShift": lambda schema, family: StaticShift(schema, n_programs=2, hidden=4, emission=family),
}


@FAMILY
@pytest.mark.parametrize("model_name", MODELS)
def test_models_fit_predict_and_reload_with_every_family(family: str, model_name: str, tmp_path) -> None:
    data = cv.simulate(n_cells=60, n_genes=5, n_perturbations=2, values=FAMILIES[family]).data
    model = MODELS[model_name](data.schema, family)
    settings = {"max_epochs": 6, "batch_size": 10, "learning_rate": 0.02, "kl_start": 1.0, "progress": False}
    posterior = cv.fit(model, BackwardSmoother(model, hidden=4), data, **settings)
    assert posterior.model.settings["emission"] == family
    assert posterior.history["training"].iloc[-1] > posterior.history["training"].iloc[0]
    assert posterior.effect(cv.do("gene_0"), draws=5).notnull().all()
    drawn = posterior.predict(cv.do("gene_0"), cells=data.controls(), draws=5).X.toarray()
    assert np.isfinite(drawn).all()
    assert (drawn == np.rint(drawn)).all() == (family != "gaussian")
    posterior.save(tmp_path / "run")
    assert cv.load(tmp_path / "run").bound(data) == posterior.bound(data)
