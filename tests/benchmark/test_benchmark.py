"""The benchmark: what folds hold out, that nothing of it leaks, and that a second start goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from typer.testing import CliRunner

import pyro_citevae as cv
from pyro_citevae import benchmark, recipe
from pyro_citevae.analysis.baselines.technical_duplicate import Duplicate
from pyro_citevae.benchmark import PROTOCOLS, Fold, Settings, Variant
from pyro_citevae.benchmark.ablation import ablated
from pyro_citevae.benchmark.protocols import grouped
from pyro_citevae.cli import app
from pyro_citevae.errors import CiteVAEError, ModelError
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.infer import Ensemble
from pyro_citevae.models import CiteVAE
from pyro_citevae.recipe import features_of

SIZES = {"n_cells": 240, "n_genes": 8, "n_perturbations": 3, "n_steps": 2, "effect": 1.5}
PAIRS = ("gene_0+gene_1", "gene_1+gene_2")
SCREEN = {**SIZES, "combinations": PAIRS}
IN_CONTEXTS = {**SIZES, "n_cells": 360, "n_steps": 1, "design": "snapshot", "n_contexts": 3,
               "context_baseline": 0.5, "context_mechanism": 0.3}  # fmt: skip
OF_CONTEXTS = ("unseen-context", "unseen-gene-in-unseen-context")
TINY = {
    "simulate": {**SIZES, "combinations": list(PAIRS)},
    "model": {"name": "CiteVAE", "n_programs": 2, "n_invariant": 0, "hidden": 4},
    "guide": {"name": "BackwardSmoother", "hidden": 4},
    "fit": {"max_epochs": 1},
    "draws": 6,
    "cells": 0,
    "seeds": 1,
    "folds": 2,
    "limit": 1,
    "network_steps": 5,
}  # fmt: skip
EXPECTED = {
    "held-out-time": {"persistence", "linear extrapolation", "mean of others (sees the held-out time)"},
    "held-out-time-of-perturbation": {"shrunken persistence", "damped extrapolation"},
    "unseen-gene": {"linear model", "ridge on features", "nearest neighbours", "softmax kernel"},
    "unseen-combination": {"additive", "matching mean", "stronger single", "mean of singles"},
}
EVERYWHERE = {"ceiling", "no change", "latent additive", "technical duplicate", "CiteVAE/BackwardSmoother"}
OUTSIDE_CONTEXTS = {"mean of others", "interpolated duplicate"}
WITHIN_CONTEXTS = {"mean of other contexts", "shrunken mean of other contexts", "nearest context",
                   "pooled log ratio", "similar contexts"}  # fmt: skip


@pytest.fixture(scope="module")
def data() -> cv.Trajectories:
    return cv.simulate(**SCREEN).data


@pytest.fixture(scope="module")
def in_contexts() -> cv.Trajectories:
    return cv.simulate(**IN_CONTEXTS).data


def settings(**changed: object) -> Settings:
    return Settings.model_validate(TINY | changed)


def toml(values: dict) -> str:
    """The settings as TOML: plain entries first, then tables."""
    plain = [f"{name} = {json.dumps(value)}" for name, value in values.items() if not isinstance(value, dict)]
    for name, table in values.items():
        if isinstance(table, dict):
            plain += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    return "\n".join(plain) + "\n"


def first_fold(protocol: str, data: cv.Trajectories, number: int | str = 2) -> Fold:
    return PROTOCOLS[protocol].folds(data, number, ())[0]


# protocols


@pytest.mark.parametrize("protocol", [*PROTOCOLS, "ablation"])
def test_the_command_runs_a_protocol_end_to_end(protocol: str, tmp_path: Path) -> None:
    changed: dict = {"features": "coexpression", "cells": 12}
    if protocol in OF_CONTEXTS:
        changed["simulate"] = IN_CONTEXTS
    if protocol == "ablation":
        changed = {
            "protocol": "held-out-time",
            "model": {"name": "StaticShift", "n_programs": 2, "hidden": 0},
        }
    config = tmp_path / "config.toml"
    config.write_text(toml(TINY | changed))
    made = CliRunner().invoke(
        app, ["benchmark", protocol, "--config", str(config), "--quiet"], catch_exceptions=False
    )
    assert made.exit_code == 0, made.output
    frame = pd.read_parquet(tmp_path / "results.parquet")
    assert list(frame.columns) == [
        "protocol", "dataset", "predictor", "perturbation", "time", "fold", "seed", "score", "value", "split",
    ]  # fmt: skip
    assert set(frame.protocol) == {protocol} and set(frame.dataset) == {"simulated"}
    assert frame.attrs["versions"]["scoringrules"] and frame.attrs["settings"]["seeds"] == 1
    splits = json.loads((tmp_path / "splits.json").read_text())
    assert {split["digest"] for split in splits} == set(frame.split) - {""}
    text = (tmp_path / "results.md").read_text()
    assert text in made.output and f"citevae benchmark {protocol} --config {config}" in text
    predictors = set(frame.predictor)
    if protocol == "ablation":
        assert {"StaticShift/BackwardSmoother", "StaticShift/MeanField", "StaticShift/Flow"} <= predictors
        return
    elsewhere = WITHIN_CONTEXTS if protocol in OF_CONTEXTS else OUTSIDE_CONTEXTS | EXPECTED[protocol]
    assert EVERYWHERE | elsewhere <= predictors
    wanted = {"pearson_delta_control", "relative_l2", "pds", "crps", "coverage_80", "energy_distance", "mmd",
              "de_direction", "crps_skill_over_no_change", "scaled_relative_l2", "scaled_pds"}  # fmt: skip
    model = frame[frame.predictor == "CiteVAE/BackwardSmoother"]
    assert wanted | {"seconds"} <= set(model.score)
    assert np.isfinite(model[model.score.isin(["relative_l2", "crps", "energy_distance"])]["value"]).all()
    assert "ALL" in set(model.perturbation)


def test_held_out_time_holds_out_the_last_time_of_everything(data: cv.Trajectories) -> None:
    (fold,) = PROTOCOLS["held-out-time"].folds(data, 5, ())
    assert set(fold.truth.row_times) == {2.0} and set(fold.train.row_times) == {1.0}
    assert set(fold.scored) == {(label, 2.0) for label in data.perturbations()}


def test_held_out_time_of_a_perturbation_keeps_the_others_and_its_past(data: cv.Trajectories) -> None:
    folds = PROTOCOLS["held-out-time-of-perturbation"].folds(data, "each", ["gene_1"])
    assert len(folds) == 1
    assert set(zip(folds[0].truth.row_labels, folds[0].truth.row_times, strict=True)) == {
        (label, 2.0) for label in ("gene_1", "gene_0+gene_1", "gene_1+gene_2")
    }
    assert folds[0].train.select("gene_1").n_cells and folds[0].train.select("gene_0", 2).n_cells


def test_an_unseen_gene_is_in_no_training_cell_and_every_gene_has_its_fold(data: cv.Trajectories) -> None:
    folds = PROTOCOLS["unseen-gene"].folds(data, 3, ())
    hidden = []
    for fold in folds:
        (criterion,) = fold.train.split.criteria
        hidden += criterion.perturbations
        for label in fold.train.perturbations():
            assert not set(label.split("+")) & set(criterion.perturbations)
    assert sorted(hidden) == list(data.schema.tokens)


def test_combinations_have_strata_by_the_members_that_were_seen(data: cv.Trajectories) -> None:
    (fold,) = PROTOCOLS["unseen-combination"].folds(data, 1, ())
    assert fold.strata == {"ALL MEMBERS SEEN": PAIRS}
    assert set(fold.train.perturbations()) == set(data.schema.tokens)
    fewer = data.rows(data.row_labels != "gene_1")
    (fold,) = PROTOCOLS["unseen-combination"].folds(fewer, 1, ())
    assert fold.strata == {"ONE MEMBER SEEN": PAIRS}


@pytest.mark.parametrize("number", [1, 3, 7, 20])
def test_groups_hold_every_label_once_and_do_not_depend_on_their_order(number: int) -> None:
    labels = [f"P{i}" for i in range(7)]
    groups = grouped(labels, number, [])
    assert sorted(one for group in groups for one in group) == labels
    assert len(groups) == min(number, 7)
    assert max(map(len, groups)) - min(map(len, groups)) <= 1
    assert grouped(labels[::-1], number, []) == groups


def test_an_ablation_turns_every_switch_and_tries_every_guide() -> None:
    names = [one.name for one in ablated(Settings())]
    on, off_by_default = ("time", "onset", "scale", "own transcript", "group"), ("edges", "mask", "direct")
    assert {f"CiteVAE/BackwardSmoother without {name}" for name in on} <= set(names)
    assert {f"CiteVAE/BackwardSmoother with {name}" for name in off_by_default} <= set(names)
    assert {"CiteVAE/MeanField", "CiteVAE/ForwardFilter", "CiteVAE/Flow"} <= set(names)
    assert not any("MechanismPosterior" in name for name in names)
    off = Settings.model_validate({"model": {"name": "CiteVAE", "time": False}})
    assert "CiteVAE/BackwardSmoother with time" in [one.name for one in ablated(off)]


def test_an_ablation_tries_the_guides_that_are_named() -> None:
    guides = [
        one.guide["name"] for one in ablated(Settings(guides=["Flow", "BackwardSmoother"])) if one.guide
    ]
    assert guides == ["Flow"]


def test_a_variant_changes_what_it_names_and_another_class_starts_anew() -> None:
    base = settings()
    model, guide, fit = base.merged(Variant(model={"time": False}, fit={"max_epochs": 2}))
    assert model.arguments == {"n_programs": 2, "n_invariant": 0, "hidden": 4, "time": False}
    assert (guide.name, fit) == ("BackwardSmoother", {"max_epochs": 2})
    model, _, _ = base.merged(Variant(model={"name": "StaticShift"}))
    assert (model.name, model.arguments) == ("StaticShift", {})


# contexts


def test_a_context_is_held_out_at_a_time_and_keeps_its_controls(in_contexts: cv.Trajectories) -> None:
    folds = PROTOCOLS["unseen-context"].folds(in_contexts, 5, ())
    assert [fold.context for fold in folds] == list(in_contexts.schema.contexts)
    for fold in folds:
        here = fold.train.select(context=fold.context)
        assert here.n_cells and not here.perturbations()
        assert set(fold.truth.context) == {in_contexts.schema.context_of(fold.context)}
        assert set(fold.labels) == set(in_contexts.perturbations())


def test_effects_in_a_context_are_against_its_own_controls(in_contexts: cv.Trajectories) -> None:
    fold = PROTOCOLS["unseen-context"].folds(in_contexts, 5, ())[1]
    here = fold.whole.select(context=fold.context)
    for one in fold.measurements:
        expected = cv.analysis.measure(here, one.perturbation, one.time)
        np.testing.assert_array_equal(one.delta, expected.delta)
        np.testing.assert_array_equal(one.variance, expected.variance)
        assert one.split_half == expected.split_half
    assert set(fold.duplicated.context) == {1}


def test_a_perturbation_of_one_context_alone_is_not_scored_there(in_contexts: cv.Trajectories) -> None:
    fewer = in_contexts.rows((in_contexts.labels != "gene_0") | (in_contexts.context == 0))
    first, second, _ = PROTOCOLS["unseen-context"].folds(fewer, 5, ())
    assert "gene_0" in fewer.select(context=first.context).perturbations()
    assert set(first.labels) == set(second.labels) == {"gene_1", "gene_2"}


def test_contexts_without_controls_are_not_held_out(in_contexts: cv.Trajectories) -> None:
    fewer = in_contexts.rows((in_contexts.labels != "control") | (in_contexts.context != 2))
    folds = PROTOCOLS["unseen-context"].folds(fewer, 5, ())
    assert [fold.context for fold in folds] == ["context_0", "context_1"]


def test_an_unseen_gene_in_an_unseen_context_is_in_no_training_cell(in_contexts: cv.Trajectories) -> None:
    folds = PROTOCOLS["unseen-gene-in-unseen-context"].folds(in_contexts, 3, ())
    assert len(folds) == 9
    for fold in folds:
        assert not set(fold.labels) & set(fold.train.perturbations())
        assert not fold.train.select(context=fold.context).perturbations()
        assert len(fold.labels) == 1 and {one.perturbation for one in fold.others} == (
            set(in_contexts.perturbations()) - set(fold.labels)
        )
    assert {(fold.context, *fold.labels) for fold in folds} == {
        (context, label) for context in in_contexts.schema.contexts for label in in_contexts.perturbations()
    }


def test_each_context_has_its_mean_and_its_table(tmp_path: Path) -> None:
    chosen = settings(simulate=IN_CONTEXTS, limit=2, seeds=2, fit={"max_steps": 20})
    found = benchmark.run("unseen-context", chosen, tmp_path)
    frame = found.scores[found.scores.score == "relative_l2"]
    rule = frame[frame.predictor == "nearest context"].set_index("perturbation")
    assert found.strata == ("context context_0", "context context_1")
    for number, name in enumerate(found.strata):
        single = rule[rule.fold == number]
        assert len(single) == 3
        assert rule["value"][name] == pytest.approx(single["value"].mean())
    assert rule["value"]["ALL"] == pytest.approx(rule[rule.fold >= 0]["value"].mean())
    scaled = found.scores[found.scores.score == "scaled_relative_l2"]
    assert (scaled[scaled.predictor == "mean of other contexts"]["value"] == 0).all()
    assert {"CiteVAE/BackwardSmoother", "CiteVAE/BackwardSmoother (ensemble)"} <= set(frame.predictor)
    text = benchmark.report(found, "x")
    assert "Mean in the context context_1:" in text
    assert (
        "| held out | mean of other contexts |" in text and "| gene_0, gene_1, gene_2 in context_1 |" in text
    )


@pytest.mark.parametrize("by", ["config", "option"])
def test_a_file_is_read_with_its_column_of_contexts(by: str, tmp_path: Path) -> None:
    path, config = tmp_path / "screen.h5ad", tmp_path / "config.toml"
    cv.datasets.kang()[::4].write_h5ad(path)
    named = {"dataset": str(path), "columns": {"context": "cell_type"}} if by == "config" else {}
    options = [] if by == "config" else ["--data", str(path), "--context", "cell_type"]
    config.write_text(toml({name: value for name, value in (TINY | named).items() if name != "simulate"}))
    line = ["benchmark", "unseen-context", "--config", str(config), "--quiet", "-o", str(tmp_path), *options]
    made = CliRunner().invoke(app, line, catch_exceptions=False)
    assert made.exit_code == 0, made.output
    assert " ".join(options) in (tmp_path / "results.md").read_text()
    frame = pd.read_parquet(tmp_path / "results.parquet")
    assert set(frame.predictor) >= WITHIN_CONTEXTS | EVERYWHERE
    assert "context B cells" in set(frame.perturbation)


# nothing that is held out is seen


def disturbed(data: cv.Trajectories, held_out: cv.Trajectories) -> cv.Trajectories:
    """The same screen, with other counts and library sizes in the held-out rows, read anew."""
    hidden = set(zip(held_out.names[held_out.row_cell], held_out.row_step.tolist(), strict=True))
    rows = np.array(
        [(name, t) in hidden for name, t in zip(data.names[data.row_cell], data.row_step, strict=True)]
    )
    x = data.values.toarray()
    x[rows] = np.random.default_rng(9).poisson(40, (rows.sum(), x.shape[1]))
    library = np.where(rows, x.sum(1), data.library).astype(np.float32)
    schema = replace(data.schema, total=float(np.median(library)))
    return replace(data, schema=schema, values=sparse.csr_matrix(x.astype(np.float32)), library=library)


def predictions(fold: Fold, protocol: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Effects and cells of every predictor that is not given the truth."""
    features = features_of("coexpression", fold.train, plain=False)
    rules = PROTOCOLS[protocol].baselines(fold, features, network_steps=5)
    predictors = {
        name: rule for name, rule in rules.items() if not isinstance(rule, Duplicate) and "sees" not in name
    }
    model = CiteVAE(fold.train.schema, n_programs=2, n_invariant=1, hidden=4, features=features)
    guide = BackwardSmoother(model, hidden=4)
    predictors["model"] = cv.fit(model, guide, fold.train, max_epochs=1, progress=False)
    schedules = [cv.Schedule.parse(label) for label in fold.labels]
    found, controls = {}, fold.train.controls()
    where = {} if fold.context is None else {"context": fold.context}
    if fold.context is not None:
        controls = controls.select(context=fold.context)
    for name, one in predictors.items():
        effects = one.effect(schedules, time=fold.times, draws=4, **where).to_numpy()
        cells = one.predict(schedules, cells=controls.thinned(6), draws=3, time=fold.times)
        found[name] = effects, cells.X.toarray()
    return found


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_held_out_cells_reach_no_prediction(
    protocol: str, data: cv.Trajectories, in_contexts: cv.Trajectories
) -> None:
    data = in_contexts if protocol in OF_CONTEXTS else data
    fold = first_fold(protocol, data)
    other = first_fold(protocol, disturbed(data, fold.truth))
    assert (other.truth.values != fold.truth.values).nnz
    assert other.train.digest == fold.train.digest
    before, after = predictions(fold, protocol), predictions(other, protocol)
    assert len(before) > 5
    for name in before:
        for one, two in zip(before[name], after[name], strict=True):
            np.testing.assert_array_equal(one, two, err_msg=name)


def test_training_cells_do_reach_predictions(data: cv.Trajectories) -> None:
    fold = first_fold("held-out-time", data)
    other = first_fold("held-out-time", disturbed(data, fold.train))
    before, after = predictions(fold, "held-out-time"), predictions(other, "held-out-time")
    assert all((before[name][1] != after[name][1]).any() for name in before)


# a second start goes on


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("was fitted again")


def test_a_second_start_takes_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = benchmark.run("held-out-time", settings(seeds=2, limit=None), tmp_path)
    monkeypatch.setattr(recipe, "fit", refuse)
    monkeypatch.setattr(Fold, "scores", refuse)
    again = benchmark.run("held-out-time", settings(seeds=2, limit=None), tmp_path)
    pd.testing.assert_frame_equal(first.scores, again.scores)
    assert again.seconds == first.seconds > 0


@pytest.mark.slow
def test_several_processes_make_the_same_rows(tmp_path: Path) -> None:
    asked, said = settings(seeds=2, limit=None), []
    one = benchmark.run("held-out-time", asked, tmp_path / "one")
    two = benchmark.run("held-out-time", asked, tmp_path / "two", lambda name, *_: said.append(name), jobs=2)
    rows = [results.scores[results.scores.score != "seconds"].to_numpy() for results in (one, two)]
    np.testing.assert_array_equal(*rows)
    assert len(said) == 8  # three pieces as they end, and all four and the end as they are found


@pytest.mark.parametrize(
    ("changed", "baselines_too"),
    [({"fit": {"max_epochs": 2}}, False),
     ({"draws": 7}, True)],
)  # fmt: skip
def test_what_follows_from_other_settings_is_made_again(
    changed: dict, baselines_too: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark.run("held-out-time", settings(), tmp_path)
    made: list[str] = []
    scores = Fold.scores
    monkeypatch.setattr(
        Fold,
        "scores",
        lambda fold, name, *rest, **more: made.append(name) or scores(fold, name, *rest, **more),
    )
    benchmark.run("held-out-time", settings(**changed), tmp_path)
    assert "CiteVAE/BackwardSmoother" in made
    assert ("persistence" in made) == baselines_too


def test_a_start_that_was_broken_off_keeps_its_whole_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit: Callable = recipe.fit
    calls: list[int] = []

    def break_at_the_second(*given: object, **more: object) -> cv.Posterior:
        calls.append(int(more["seed"]))
        if calls == [0, 1]:
            raise KeyboardInterrupt
        return fit(*given, **more)

    monkeypatch.setattr(recipe, "fit", break_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        benchmark.run("held-out-time", settings(seeds=2, baselines=False), tmp_path)
    found = benchmark.run("held-out-time", settings(seeds=2, baselines=False), tmp_path)
    assert calls == [0, 1, 1]
    assert "CiteVAE/BackwardSmoother (ensemble)" in set(found.scores.predictor)
    assert not list(tmp_path.rglob(".*"))


# tables


@pytest.mark.filterwarnings("ignore:do")
def test_means_are_over_the_perturbations_of_all_folds(tmp_path: Path) -> None:
    found = benchmark.run("unseen-gene", settings(limit=None, headline=["gene_0", "gene_2"]), tmp_path)
    frame = found.scores[(found.scores.score == "relative_l2") & (found.scores.predictor == "no change")]
    frame = frame[frame.time == 2]
    single = frame[~frame.perturbation.isin(["ALL", "REPRODUCIBLE"])]
    assert set(single.fold) == {0, 1} and len(found.splits) == 2
    everything = frame[frame.perturbation == "ALL"]
    assert everything.fold.tolist() == [-1]
    assert everything["value"].item() == pytest.approx(single["value"].mean())
    named = single[single.perturbation.isin(["gene_0", "gene_2"])]
    assert frame[frame.perturbation == "REPRODUCIBLE"]["value"].item() == pytest.approx(named["value"].mean())
    assert set(single.split) == {split.digest for split in found.splits}


def test_the_ensemble_is_that_of_its_seeds(tmp_path: Path) -> None:
    found = benchmark.run("held-out-time", settings(seeds=2, baselines=False), tmp_path)
    runs = [tmp_path / "fold_0" / "CiteVAE_BackwardSmoother" / f"seed_{seed}" / "run" for seed in range(2)]
    ensemble = Ensemble([cv.load(run) for run in runs])
    fold = first_fold("held-out-time", settings().data())
    expected = fold.scores("x", ensemble, draws=6, cells=0).set_index(["perturbation", "score"])["value"]
    kept = found.scores[found.scores.predictor.str.endswith("(ensemble)") & (found.scores.fold == 0)]
    kept = kept.set_index(["perturbation", "score"])["value"]
    for label in fold.labels:
        assert kept[label, "crps"] == pytest.approx(expected[label, "crps"])


def test_the_report_says_what_was_run(tmp_path: Path) -> None:
    found = benchmark.run("unseen-combination", settings(seeds=2), tmp_path)
    text = benchmark.report(found, "citevae benchmark unseen-combination")
    for said in (
        "| ceiling |", "| additive |", "over combinations, all members seen", "1 fold (split ", "seeds 0-1",
        found.splits[0].digest[:12], f"torch {found.versions['torch']}", "is 0 and a perfect",
    ):  # fmt: skip
        assert said in text


@pytest.mark.filterwarnings("ignore:do")
def test_the_report_shows_the_last_time_and_every_fold(tmp_path: Path) -> None:
    found = benchmark.run("unseen-gene", settings(limit=None, seeds=2, ensemble=False), tmp_path)
    text = benchmark.report(found, "x")
    frame = found.scores[found.scores.score == "relative_l2"]
    last = frame[(frame.perturbation == "ALL") & (frame.time == frame.time.max())]
    model = last[last.predictor == "CiteVAE/BackwardSmoother"]["value"]
    at_last = text.split("The same at time 2 alone:")[-1].split("\n\n")[1]
    assert f"{model.mean():.3f} ({model.min():.3f}-{model.max():.3f})" in at_last
    single = frame[(frame.fold == 1) & ~frame.perturbation.isin(["ALL", "REPRODUCIBLE"])]
    wide = single.pivot_table(index=["perturbation", "time"], columns=["predictor", "seed"], values="value")
    rule = wide["mean of others"][0]
    apart = wide["CiteVAE/BackwardSmoother"].sub(rule, axis=0).stack()
    row = f"| {rule.mean():.3f} | {apart.mean():+.3f} ({apart.sem():.3f}) |"
    assert row in text.split("fold by fold")[1]


@pytest.mark.slow
def test_the_challenge_is_scored_on_its_own_scale_and_its_version_kept(tmp_path: Path) -> None:
    pytest.importorskip("cell_eval2")
    sizes = {**SIZES, "n_cells": 1500, "n_genes": 60, "n_perturbations": 6, "effect": 3.0}
    chosen = settings(simulate=sizes, cells=100, challenge=True, baselines=False)
    found = benchmark.run("held-out-time", chosen, tmp_path)
    model = found.scores[found.scores.predictor == "CiteVAE/BackwardSmoother"]
    assert {"cell_eval2_pds_cosine", "cell_eval2_de_wilcoxon_sig_jaccard"} <= set(model.score)
    scaled = found.scores[found.scores.score == "scaled_cell_eval2_average"].set_index("predictor")["value"]
    assert scaled["mean response"] == pytest.approx(0)
    assert scaled["replicate"] == pytest.approx(1)
    assert np.isfinite(scaled["CiteVAE/BackwardSmoother"])
    text = benchmark.report(found, "x")
    assert found.versions["cell-eval2"] in text
    raw, on_the_scale = text.split("by cell-eval2")[1].split("0 is the mean response")
    assert "pds_cosine" in raw and "average" in on_the_scale
    assert "| replicate |" not in text.split("by cell-eval2")[0]


# refusals


@pytest.mark.parametrize(
    ("name", "changed", "said"),
    [
        ("held-out-tim", {}, "'held-out-tim' is not a protocol; name one of held-out-time"),
        ("ablation", {"protocol": "nothing"}, "'nothing' is not a protocol"),
        ("unseen-combination", {"simulate": SIZES}, "no combination is in the data"),
        ("held-out-time", {"simulate": {**SIZES, "design": "snapshot"}}, "these data have one time"),
        ("held-out-time", {"simulate": {"n_cell": 5}}, "cannot be made from its settings"),
        ("held-out-time", {"simulate": {}, "dataset": "no.h5ad"}, "is not a file"),
        ("unseen-gene", {"simulate": {**SIZES, "n_cells": 12}}, "no held-out group of four cells"),
        ("unseen-gene", {"features": "no.csv"}, "no.csv"),
        ("unseen-gene", {"simulate": IN_CONTEXTS}, "have the contexts context_0, .* take 'unseen-context'"),
        ("unseen-context", {}, "have no context; name the column of cell types"),
        (
            "unseen-gene-in-unseen-context",
            {"simulate": {**IN_CONTEXTS, "n_perturbations": 1}},
            "'context_0' has 1; take 'unseen-context'",
        ),
        ("held-out-time", {"variants": [{"model": {"name": "Nothing"}}]}, "is unknown"),
        (
            "held-out-time",
            {"variants": [{"model": {"time": False}}]},
            "two variants .* give one of them name=",
        ),
        ("held-out-time", {"variants": [{"name": "x", "fit": {"epochs": 3}}]}, "is not a setting"),
    ],
)
def test_a_mistake_is_one_sentence(name: str, changed: dict, said: str, tmp_path: Path) -> None:
    with pytest.raises(CiteVAEError, match=said):
        benchmark.run(name, settings(**changed), tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [("seeds = 0", "seeds: input should be greater"), ("fold = 3", "fold: extra inputs"), ("[", "as TOML")],
)
def test_a_bad_config_is_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(ModelError, match=said):
        benchmark.read(path)


def test_a_command_without_a_config_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["benchmark", "held-out-time"])
    assert isinstance(result.exception, ModelError)
    assert "experiments/held_out_time/config.toml" in str(result.exception)


def test_the_shipped_configs_are_read() -> None:
    for path in sorted((Path(__file__).parents[2] / "experiments").glob("*/config.toml")):
        if path.parent.name.replace("_", "-") in [*PROTOCOLS, "ablation"]:
            assert benchmark.read(path).seeds >= 5


def test_a_duplicate_is_told_apart_among_truths_that_are_as_noisy(data: cv.Trajectories) -> None:
    fold = first_fold("unseen-gene", data)
    assert {one.perturbation for one in fold.half_of_the_others} == {one.perturbation for one in fold.others}
    for half, whole in zip(fold.half_of_the_others, fold.others, strict=True):
        assert half.variance.mean() > 1.3 * whole.variance.mean()


def test_the_schema_of_a_fold_is_that_of_its_training_cells(data: cv.Trajectories) -> None:
    fold = first_fold("unseen-gene", data)
    assert fold.train.schema == fold.truth.schema == fold.whole.schema
    assert fold.train.schema.total == np.median(fold.train.library)
