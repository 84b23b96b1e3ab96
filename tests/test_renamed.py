"""Names of the version before: every one still works, and says what it is called now."""

from __future__ import annotations

import importlib
import subprocess
import sys
import warnings
from types import ModuleType

import pytest
import torch

import pyro_citevae as cv
from pyro_citevae import analysis, benchmark, data
from pyro_citevae.renamed import MODULES


@pytest.mark.parametrize(("old", "new"), MODULES.items())
def test_a_module_is_found_under_its_old_name(old: str, new: str) -> None:
    sys.modules.pop(f"pyro_citevae.{old}", None)
    first, *_ = new.split()
    with pytest.warns(DeprecationWarning, match=f"pyro_citevae.{old} is called pyro_citevae.{first} now"):
        found = importlib.import_module(f"pyro_citevae.{old}")
    for one in new.split():
        there = importlib.import_module(f"pyro_citevae.{one}")
        assert there.__name__ == f"pyro_citevae.{one}"
        for name in there.__all__:
            assert getattr(found, name) is getattr(there, name)


# what each module had that a script could import, of those whose content went to several places
MOVED = {
    "analysis.calibration": ("coverage", "randomised_pit"),
    "analysis.criticism": ("predictive_check",),
    "analysis.baselines": ("AcrossPerturbations", "Baseline", "EffectRule", "NoChange", "Predictor"),
    "analysis.evaluation": ("ALL", "CEILING", "COLUMNS", "REPRODUCIBLE", "Measurement", "cell_rows",
        "evaluate", "markdown", "means", "measure", "measured_effects", "pearson", "relative_l2",
        "reproducible", "require_unseen", "scaled_scores", "skills", "summary"),
    "analysis.identifiability": ("Matching", "match", "recovery"),
    "analysis.plots": ("effects", "licence", "ranking", "trajectories"),
    "cli": ("app", "main"),
    "data.causal3dident_dynamics": ("COARSE", "FACTORS", "NOISE", "SHAPES", "LatentSequences",
        "LatentTriplets", "SoftEffects", "adjacency", "latent_dynamics", "latent_triplets"),
    "data.image_sequences": ("ImageSequences", "ImageTriplets", "write"),
    "data.render.scene": ("SCENE_VERSION",),
    "infer.prediction": ("Abduction", "Effect", "PredictedCells", "Substitute", "control_error",
        "global_draws"),
    "data.trajectories": ("Batch", "Trajectories"),
}  # fmt: skip


@pytest.mark.parametrize("module", MOVED)
def test_a_name_is_found_in_its_old_module(module: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        found = importlib.import_module(f"pyro_citevae.{module}")
        for name in MOVED[module]:
            assert getattr(found, name) is not None, name


@pytest.mark.parametrize(
    ("package", "name"),
    [
        (analysis, "forecast"),
        (analysis, "Forecast"),
        (data, "image_sequences"),
        (data, "causal3dident_dynamics"),
        (benchmark, "read"),
    ],
)
def test_a_name_that_a_package_exported_is_found(package: ModuleType, name: str) -> None:
    vars(package).pop(name, None)  # what another test imported by its old path
    sys.modules.pop(f"{package.__name__}.{name}", None)
    with pytest.warns(DeprecationWarning, match=f"{name} is called"):
        assert getattr(package, name) is not None


def test_a_name_that_never_was_is_missed() -> None:
    with pytest.raises(ImportError):
        importlib.import_module("pyro_citevae.analysis.nothing")
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = analysis.nothing


def test_old_arguments_and_the_old_attribute_are_understood() -> None:
    with pytest.warns(DeprecationWarning, match=r"simulate\(layout=...\) is called simulate\(design=...\)"):
        screen = cv.simulate(n_cells=20, layout="sequences").data
    assert screen.schema.design == "sequences"
    with pytest.warns(DeprecationWarning, match=r"Schema\(layout=...\) is called"):
        schema = cv.Schema(("g",), ("A",), layout="time course")
    with pytest.warns(DeprecationWarning, match=r"Schema.layout is called Schema.design"):
        assert schema.layout == "time course"


def test_nothing_of_the_new_house_uses_an_old_name() -> None:
    made = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:pyro_citevae", "-c",
         "import pyro_citevae, pyro_citevae.cli, pyro_citevae.scenes, pyro_citevae.benchmark;"
         "import sys; old = [name for name in sys.modules if name.startswith('pyro_citevae.data.image')];"
         "assert not old, old"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr


def test_an_old_import_path_leaves_the_function_of_its_name_callable() -> None:
    asked = (
        "import warnings; warnings.simplefilter('ignore', DeprecationWarning);"
        "from pyro_citevae import analysis; from pyro_citevae.analysis.licence import Licence;"
        "assert callable(analysis.licence), analysis.licence;"
        "import pyro_citevae.infer; assert pyro_citevae.infer.sites.global_sites is not None"
    )
    made = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr


def test_a_variant_that_says_informed_says_has_features() -> None:
    with pytest.warns(DeprecationWarning, match="Informed.informed is called Informed.has_features"):

        class Informed(cv.models.StaticShift):
            @property
            def informed(self) -> torch.Tensor:
                return ~self.seen

    model = Informed(cv.Schema(("g",), ("A", "B")), n_programs=1, hidden=2)
    assert not model.has_features.any()
