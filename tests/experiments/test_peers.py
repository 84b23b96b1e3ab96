"""The peers' framework: what adapters are given, what is stored of them, and that a second start goes on."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest

import pyro_citevae as cv
from pyro_citevae.analysis import measure
from pyro_citevae.data.pseudobulk import profile

PEERS = Path(__file__).parents[2] / "experiments/peers"
HEAD = """
import argparse, pathlib, sys
parser = argparse.ArgumentParser()
parser.add_argument("task", type=pathlib.Path)
parser.add_argument("out", type=pathlib.Path)
parser.add_argument("--seed", type=int)
parser.add_argument("--steps", type=int, default=10)
given = parser.parse_args()
with open(pathlib.Path(__file__).with_name("calls.txt"), "a") as calls:
    print(given.seed, given.steps, file=calls)
"""
SHIFTING = """
import anndata, numpy as np, pandas as pd
train = anndata.read_h5ad(given.task / "train.h5ad")
ask = pd.read_csv(given.task / "ask.csv")
controls = train[(train.obs["perturbation"] == "control").to_numpy()]
x = controls.X.toarray()
x[:, -1] *= 3
columns = ["perturbation", "context", "time"]
obs = ask.loc[ask.index.repeat(len(x)), columns].reset_index(drop=True)
obs.index = obs.index.astype(str)
said = {"package": "shifting", "version": "1", "steps": given.steps, "unit": "steps", "settings": "none",
        "intervals": "none"}
made = anndata.AnnData(np.tile(x, (len(ask), 1)), obs=obs, var=train.var[[]].copy(),
                       uns={"values": "counts", "peer": said})
made.write_h5ad(given.out)
"""


@pytest.fixture(autouse=True)
def peers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Its scripts can be imported, whatever other experiments call theirs."""
    names = {one.stem for one in PEERS.glob("*.py")}
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(PEERS))
    yield
    for name in names:
        sys.modules.pop(name, None)


def adapter(folder: Path, body: str, name: str = "tool") -> Any:
    """A peer whose environment is that of the tests."""
    from predictors import Peer

    folder.mkdir(exist_ok=True)
    script = folder / "adapter.py"
    script.write_text(HEAD + body)
    return Peer(name, Path(sys.executable), script)


def calls(peer: Any) -> int:
    file = peer.adapter.with_name("calls.txt")
    return len(file.read_text().splitlines()) if file.is_file() else 0


def small_task(**changed: Any) -> Any:
    from tasks import Task, simulated

    screen = simulated(n_cells=240, n_genes=8, n_programs=2, n_perturbations=3, n_steps=1, seed=1)
    options = {"folds": 3, "features": "table"} | changed
    return Task("small", "a small one", "unseen-gene", options.pop("screen", screen), **options)


def case_of(task: Any, folder: Path) -> Any:
    from task_folder import Case

    return Case.of(task, task.folds_of(task.data)[0], folder / task.name / "fold_0" / "case")


@pytest.mark.parametrize(
    "changed", ["tool/adapter.py", "tool/requirements.txt", "tool/without_dependencies.txt", "exchange.py"]
)
def test_a_piece_is_made_anew_where_what_its_predictions_follow_from_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    import predictors

    (tmp_path / "exchange.py").touch()
    monkeypatch.setattr(predictors, "HERE", tmp_path)
    first = adapter(tmp_path / "tool", "").source
    (tmp_path / changed).open("a").write("# another\n")
    again = predictors.Peer("tool", Path(sys.executable), tmp_path / "tool/adapter.py").source
    assert again != first


def test_an_adapter_is_given_training_cells_and_nothing_of_the_truth(tmp_path: Path) -> None:
    case = case_of(small_task(), tmp_path)
    assert {one.name for one in case.given.iterdir()} == {
        "train.h5ad",
        "ask.csv",
        "genes.parquet",
        "task.json",
    }
    train = anndata.read_h5ad(case.given / "train.h5ad")
    held_out = case.fold.labels
    np.testing.assert_array_equal(train.X.toarray(), case.fold.train.stored.toarray())
    assert list(train.obs.columns) == ["perturbation", "context", "time", "batch"]
    assert not set(held_out) & set(train.obs["perturbation"])
    ask = pd.read_csv(case.given / "ask.csv")
    assert list(zip(ask["perturbation"], ask["time"], strict=True)) == list(case.fold.scored)
    known = pd.read_parquet(case.given / "genes.parquet").index
    assert set(case.fold.whole.perturbations()) <= set(known)


def test_the_control_is_asked_at_a_time_of_which_training_has_none(tmp_path: Path) -> None:
    from tasks import Task

    course = Task("course", "a course", "held-out-time", lambda: cv.simulate(n_cells=200, n_steps=2))
    ask = pd.read_csv(case_of(course, tmp_path).given / "ask.csv")
    assert ask[ask["perturbation"] == "control"]["time"].tolist() == [2.0]


def test_the_score_of_controls_moved_by_a_known_shift_is_known(tmp_path: Path) -> None:
    from pieces import Piece, Store

    case = case_of(small_task(), tmp_path)
    frame, said = Store().result(Piece(case, adapter(tmp_path / "tool", SHIFTING), challenge=False))
    train, whole = case.fold.train, case.fold.whole
    sums = train.controls().stored.sum(0).astype(float)
    moved = sums.copy()
    moved[-1] *= 3
    effect = profile(moved, train.schema.panel_total) - profile(sums, train.schema.panel_total)
    for label, at in case.fold.scored:
        one = measure(whole, label, at)
        wanted = np.linalg.norm((effect - one.delta)[one.keep]) / np.linalg.norm(one.delta[one.keep])
        found = frame[(frame.perturbation == label) & (frame.score == "relative_l2")]["value"].item()
        assert found == pytest.approx(wanted, abs=1e-9)
    true = frame[frame.score == "true_crps"].set_index("perturbation")["value"]
    for one in case.truth:  # without noise and without draws a CRPS is an absolute error
        error = np.abs(effect - one.delta)[one.keep].mean()
        assert true[one.perturbation] == pytest.approx(error, abs=1e-9)
    assert not frame.score.str.contains("coverage").any()  # a point claims no interval
    assert said["failure"] == "" and said["itself"]["steps"] == 10
    assert said["seconds"] > 0 and 50 < said["megabytes"] < 5000


def test_a_second_start_runs_nothing_again(tmp_path: Path) -> None:
    from pieces import Piece, Store

    case, tool = case_of(small_task(), tmp_path), adapter(tmp_path / "tool", SHIFTING)
    first, _ = Store().result(Piece(case, tool, seed=1, challenge=False))
    assert calls(tool) == 1
    case = case_of(small_task(), tmp_path)  # read anew, as by another process
    second, _ = Store().result(Piece(case, tool, seed=1, challenge=False))
    pd.testing.assert_frame_equal(first, second)
    assert calls(tool) == 1
    Store(anew=True).result(Piece(case, tool, seed=1, challenge=False))
    Store().result(Piece(case, tool, seed=2, challenge=False))
    tool = adapter(tmp_path / "tool", SHIFTING + "\n# changed\n")
    Store().result(Piece(case, tool, seed=1, challenge=False))
    assert calls(tool) == 4  # when asked, another seed, and another adapter


def test_a_failure_is_a_row_and_is_tried_again_when_asked(tmp_path: Path) -> None:
    from pieces import Piece, Store

    case = case_of(small_task(), tmp_path)
    tool = adapter(tmp_path / "tool", "print('a word', file=sys.stderr)\nraise SystemExit('it broke')\n")
    for store, wanted in ((Store(), 1), (Store(), 1), (Store(again=True), 2)):
        frame, said = store.result(Piece(case, tool, challenge=False))
        assert frame.empty and said["failure"] == "it broke" and not said["cannot"]
        assert calls(tool) == wanted


def test_what_a_tool_is_not_made_for_is_not_tried_again(tmp_path: Path) -> None:
    from pieces import Piece, Store

    case = case_of(small_task(), tmp_path)
    body = "print('no unseen gene', file=sys.stderr)\nsys.exit(3)\n"
    tool = adapter(tmp_path / "tool", body)
    for store in (Store(), Store(again=True)):
        _, said = store.result(Piece(case, tool, challenge=False))
        assert said["cannot"] and said["failure"] == "no unseen gene"
    assert calls(tool) == 1


def test_a_file_that_cannot_be_scored_is_a_failure(tmp_path: Path) -> None:
    from pieces import Piece, Store

    tool = adapter(tmp_path / "tool", SHIFTING.replace("len(ask), 1)), obs=obs", "1, 1)), obs=obs[: len(x)]"))
    task = small_task(folds=1)  # several are asked, and one is written
    _, said = Store().result(Piece(case_of(task, tmp_path), tool, challenge=False))
    assert "predicts no cell of" in said["failure"]


def test_a_fit_past_its_limit_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    from pieces import Piece, Store

    mark = tmp_path / "mark"
    started = f"import time; time.sleep(4); open({str(mark)!r}, 'w')"
    body = f"import subprocess, time\nsubprocess.Popen([sys.executable, '-c', {started!r}])\ntime.sleep(60)\n"
    tool = adapter(tmp_path / "tool", body)
    _, said = Store(limit=2.0).result(Piece(case_of(small_task(), tmp_path), tool, challenge=False))
    assert said["failure"] == "not done after 2 seconds" and said["seconds"] < 30
    time.sleep(4)
    assert not mark.exists()


def test_memory_is_that_of_the_process_and_not_of_the_one_that_starts_it(tmp_path: Path) -> None:
    """This process has torch in memory; a Python that does nothing holds less than 50 MB."""
    case = case_of(small_task(), tmp_path)
    ran = adapter(tmp_path / "idle", "").run(case, tmp_path / "out", seed=0, steps=None, limit=60)
    assert ran.megabytes < 50
    ran = adapter(tmp_path / "full", "x = b'1' * 200_000_000\n").run(
        case, tmp_path / "out", seed=0, steps=None, limit=60
    )
    assert 200 < ran.megabytes < 300


@pytest.mark.slow
def test_ours_and_the_rules_run_as_a_peer_does(tmp_path: Path) -> None:
    """In a process of their own, from the case's folder, and all of them are scored."""
    from pieces import Piece, Store
    from predictors import OURS, RULES, Own

    case = case_of(small_task(), tmp_path)
    frame, said = Store().result(Piece(case, Own(OURS), steps=3, challenge=False))
    assert set(frame.predictor) == {OURS}, said
    assert {"coverage_80", "relative_l2", "true_relative_l2"} <= set(frame.score)
    rules, _ = Store().result(Piece(case, Own(RULES), challenge=False))
    assert {"no change", "mean of others", "technical duplicate"} <= set(rules.predictor)
    errors = rules[(rules.predictor == "no change") & (rules.score == "relative_l2")]["value"]
    np.testing.assert_allclose(errors, 1.0)


def test_the_page_says_first_where_ours_is_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pages
    import tasks

    task = small_task()
    monkeypatch.setattr(pages, "TASKS", {"small": task})
    monkeypatch.setattr(pages, "contenders", lambda: dict.fromkeys(("rules", "CiteVAE", "tool", "other")))
    assert tasks.TASKS  # the real ones are left alone
    rows = [
        {"task": "small", "predictor": name, "perturbation": "gene_0", "time": 1.0, "fold": 0, "seed": seed,
         "score": score, "value": value + seed / 10}
        for name, value in (("CiteVAE", 0.5), ("tool", 0.3), ("other", 0.7), ("no change", 1.0))
        for score in ("relative_l2", "crps")
        for seed in range(2 if name != "no change" else 1)
    ]  # fmt: skip
    itself = {"package": "p", "version": "1", "intervals": "none", "settings": "none"}
    fits = [
        {"task": "small", "predictor": name, "fold": 0, "seed": 0, "seconds": 1.0, "processor": 1.0,
         "megabytes": 2.0, "failure": "it broke" * (name == "failing"), "cannot": False, "itself": itself}
        for name in ("CiteVAE", "tool", "failing")
    ]  # fmt: skip
    said = pages.page(pd.DataFrame(rows), fits, [], {"absent": "no such wheel"})
    first = said.split("## The headline")[0]
    assert "a small one, relative L2: tool 0.350 (0.300-0.400). CiteVAE 0.550" in first
    assert "other" not in first and "no change" not in first
    assert "| CiteVAE | 0.550 (0.500-0.600)" in said and "**0.350 (0.300-0.400)**" in said
    assert re.search(r"\| failing \|.*it broke", said) and "| absent | | does not install" in said


def test_each_peer_says_its_python_and_how_it_is_asked() -> None:
    """Or the line that says why it does not install."""
    folders = [one for one in PEERS.iterdir() if one.is_dir() and not one.name.startswith(("_", "."))]
    for folder in folders:
        if (folder / "failure.txt").is_file():
            continue
        if not (folder / "adapter.py").is_file():
            assert not any(folder.glob("*.py")), folder
            continue
        first = (folder / "requirements.txt").read_text().splitlines()[0]
        assert re.fullmatch(r"# python 3\.1[0-2]", first), folder
        compile((folder / "adapter.py").read_text(), str(folder), "exec")


@pytest.mark.slow
def test_every_task_has_something_to_score_and_features_of_what_is_asked() -> None:
    from tasks import TASKS

    for task in TASKS.values():
        folds = task.folds_of(task.data)
        assert len(folds) == len(task.taken)
        for fold in folds:
            assert fold.scored
            table = task.table(fold)
            if table is not None:
                genes = {gene for label in fold.labels for gene in label.split("+")}
                assert genes <= set(table.index), task.name


def test_tables_hold_what_is_of_todays_cases_and_adapters(tmp_path: Path) -> None:
    import pieces

    tool, store = adapter(tmp_path / "tool", SHIFTING), pieces.Store()
    out = tmp_path / "out"

    def gathered(known: Any) -> int:
        return len(list(pieces.stored(out, {"tool": known})))

    store.result(pieces.Piece(case_of(small_task(), out), tool, challenge=False))
    assert gathered(tool) == 1
    changed = adapter(tmp_path / "tool", SHIFTING + "\n# changed\n")
    assert gathered(changed) == 0
    case_of(small_task(folds=2), out)  # the task holds out other genes now
    assert gathered(tool) == 0


def test_a_start_elsewhere_goes_on_from_the_written_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pieces
    import tables

    tool, task, out = adapter(tmp_path / "tool", SHIFTING), small_task(), tmp_path / "out"
    monkeypatch.setattr(tables, "contenders", lambda: {"tool": tool})
    first = pieces.Store().result(pieces.Piece(case_of(task, out), tool, challenge=False))
    results, elsewhere = tmp_path / "results", tmp_path / "elsewhere"
    results.mkdir()
    tables.main(["-o", str(out), "--to", str(results)])
    page = (results / "results.md").read_text()
    tables.main(["--to", str(results)])
    assert (results / "results.md").read_text() == page

    tables.restored(elsewhere, results)
    again = pieces.Store().result(pieces.Piece(case_of(task, elsewhere), tool, challenge=False))
    pd.testing.assert_frame_equal(first[0], again[0])
    assert calls(tool) == 1
    changed = adapter(tmp_path / "tool", SHIFTING + "\n# changed\n")
    pieces.Store().result(pieces.Piece(case_of(task, elsewhere), changed, challenge=False))
    assert calls(tool) == 2


def test_a_search_takes_the_steps_that_err_least_within_on_the_first_task_a_tool_is_made_for(
    tmp_path: Path,
) -> None:
    from dataclasses import replace

    from pieces import Store
    from search import note, read, searches

    body = SHIFTING.replace("*= 3", "*= given.steps")  # 5 steps err least, 10 are its default
    needs = (
        "if not (given.task / 'genes.parquet').exists(): print('no features', file=sys.stderr); sys.exit(3)"
    )
    tool, out = adapter(tmp_path / "tool", needs + body), tmp_path / "out"
    tasks = (small_task(features=one, challenge=False) for one in ("none", "table"))
    first, second = (replace(task, name=task.features) for task in tasks)
    for one in searches([first, second], [tool], out):
        row = one.row(Store())
        note(row, out)
    assert read(out) == [row]
    assert (row["task"], row["predictor"], row["steps"], row["chosen"]) == ("table", "tool", 10, 0.5)
    assert row["inner"]["0.5"] < row["inner"]["1"] < row["inner"]["2"]
    assert row["searched"] < row["default"]
    made = calls(tool)
    assert made == 1 + 3 + 2
    assert next(iter(searches([first, second], [tool], out))).row(Store()) == row
    assert calls(tool) == made
