"""Row 10: fits and predictions on a CUDA device, against scvi-tools, its kernels' own time, and the CPU."""

from __future__ import annotations

import math
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from case import Case, Measured, Target, UnavailableError
from child import answer, peers
from open_screen import in_memory
from prediction import SIZES, Sizes, predicted
from screen_file import screen_file
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from whole_fits import cells_a_second, fitted, seconds_an_epoch

import pyro_citevae as cv

__all__ = ["cases", "over_the_cpu"]

_MOST_SECONDS_OF_FIRST_STEPS = 10.0
_MOST_SECONDS_OF_PREDICTION = 5.0
_DEVICE = "gpu"


class Fit(NamedTuple):
    """A fit that is timed at two lengths.

    Attributes:
        n_cells: Cells of the screen.
        n_genes: Its genes.
        batch_size: Cells of a minibatch.
        further: Epochs by which the longer fit is longer; the shorter one has one.
        n_perturbations: Perturbations of the screen.
    """

    n_cells: int
    n_genes: int
    batch_size: int
    further: int
    n_perturbations: int = 20

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return math.ceil(self.n_cells / self.batch_size)

    def data(self, work: Path) -> cv.Trajectories:
        """The screen."""
        return in_memory(screen_file(work, self.n_cells, self.n_genes, n_perturbations=self.n_perturbations))


def cases(quick: bool, work: Path) -> list[Case]:
    """2,000 genes, networks 128 wide; eight minutes, by estimate, with the tool that it is held against."""
    if quick:
        rounds, small, large, short_screen = 1, Fit(64, 40, 16, 1), Fit(64, 40, 32, 1), 64
        first_screen, sizes = (64, 40), Sizes(2, 10, 4, 30)
    else:
        rounds, small, large, short_screen = 2, Fit(32_768, 2000, 256, 4), Fit(65_536, 2000, 4096, 20), 16_384
        first_screen, sizes = (8 * 256, 2000), SIZES
    over_peer = [
        Case(
            "GPU",
            f"SCVI, batch {fit.batch_size:,}",
            Target("our cells a second over theirs, whole fits", "at least", bound),
            _on_a_gpu(partial(_over_scvi, work, fit, rounds)),
        )
        for fit, bound in ((small, 2.5), (large, 3.0))
    ]
    over_kernels = [
        Case(
            "GPU",
            f"kernels, batch {fit.batch_size:,}",
            Target("time of a step over the sum of its kernels' times", "at most", 1.3),
            _on_a_gpu(partial(_over_kernels, work, fit, short_screen, rounds)),
        )
        for fit in (small, large)
    ]
    waits = [
        Case(
            "GPU",
            "first steps of a process",
            Target(f"seconds over {_MOST_SECONDS_OF_FIRST_STEPS:g}, capture included", "at most", 1.0),
            _on_a_gpu(partial(_first_steps, work, first_screen, 1)),
        ),
        Case(
            "GPU",
            f"prediction, {sizes}",
            Target(f"seconds over {_MOST_SECONDS_OF_PREDICTION:g}, all layers", "at most", 1.0),
            _on_a_gpu(partial(_prediction, work, sizes, 1)),
        ),
    ]
    captured = [
        Case(
            "GPU",
            f"capture, batch {fit.batch_size:,}",
            Target('cells a second with capture="auto" over "never"'),
            _on_a_gpu(partial(_captured, work, fit._replace(further=max(1, fit.further // 4)))),
        )
        for fit in (small, large)
    ]
    many = Fit(96, 40, 32, 1, 30) if quick else Fit(20_480, 8000, 4096, 20, 10_000)
    genome = Case(
        "GPU",
        f"{many.n_perturbations:,} perturbations x {many.n_genes:,} genes, batch {many.batch_size:,}",
        Target("cells a second over those at 20 perturbations"),
        _on_a_gpu(partial(_over_few, work, many)),
    )
    return [*over_peer, *over_kernels, *waits, *captured, genome]


def over_the_cpu(quick: bool, work: Path) -> list[Case]:
    """16,384 cells x 2,000 genes, in single and in mixed precision; takes long for the CPU's sake."""
    sizes, rounds, further = ((64, 40), 1, 1) if quick else ((16_384, 2000), 3, 5)
    return [
        Case(
            "GPU over CPU",
            f"{precision}, batch {batch_size:,}",
            Target("cells a second on the GPU over the CPU"),
            _on_a_gpu(partial(_over_cpu, work, Fit(*sizes, batch_size, further), precision, rounds)),
        )
        for batch_size in (256, 1024, 4096)
        for precision in ("32-true", "bf16-mixed")
    ]


def _on_a_gpu(measure: Callable[[], Measured]) -> Callable[[], Measured]:
    """The measurement, where there is a device; one that fails leaves the others their time on it."""

    def measured() -> Measured:
        if not torch.cuda.is_available():
            raise UnavailableError("torch finds no CUDA device here")
        try:
            found = measure()
        except UnavailableError:
            raise
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            raise UnavailableError(f"{type(error).__name__}: {error}") from error
        return Measured(found.ratios, f"{torch.cuda.get_device_name()}: {found.note}", found.holds)

    return measured


def _options(fit: Fit) -> dict[str, Any]:
    return {"batch_size": fit.batch_size, "accelerator": _DEVICE}


def _over_scvi(work: Path, fit: Fit, rounds: int) -> Measured:
    """In alternation, each fit at two lengths."""
    python, data = peers(), fit.data(work)
    file, long = screen_file(work, fit.n_cells, fit.n_genes), 1 + fit.further
    options = ("--batch-size", fit.batch_size, "--short", 1, "--epochs", long, "--accelerator", _DEVICE)
    ours, theirs, versions = [], [], ""
    fitted(data, 1, **_options(fit))  # the device's libraries start
    for _ in range(rounds):
        ours.append(cells_a_second(data, 1, long, **_options(fit)))
        found = answer("train_scvi.py", file, *options, python=python)
        theirs.append(found["cells_per_second"])
        versions = found["versions"]
    note = f"cells a second: ours {np.median(ours):,.0f}, SCVI {np.median(theirs):,.0f} ({versions})"
    return Measured((np.array(ours) / np.array(theirs)).tolist(), note)


def _over_kernels(work: Path, fit: Fit, short_screen: int, rounds: int) -> Measured:
    """The profiler slows steps: it times the kernels of some, and the clock times others without it."""
    data, options = fit.data(work), _options(fit)
    profiled = fit._replace(n_cells=short_screen)
    steps = profiled._replace(further=max(1, math.ceil(64 / profiled.steps)))
    ran, launched = _kernels(steps.data(work), steps, options)
    taken = [
        seconds_an_epoch(lambda epochs: fitted(data, epochs, **options), 1, 1 + fit.further) / fit.steps
        for _ in range(rounds)
    ]
    note = f"{1e3 * np.median(taken):.2f} ms a step, {1e3 * ran:.2f} ms in {launched:,.0f} kernels and copies"
    return Measured((np.array(taken) / ran).tolist(), note)


def _kernels(data: cv.Trajectories, fit: Fit, options: dict[str, Any]) -> tuple[float, float]:
    """Seconds in kernels and copies of a step, and their number, from what further epochs add."""
    counted = []
    for epochs in (1, 1 + fit.further):
        with profile(activities=[ProfilerActivity.CUDA]) as profiled:
            fitted(data, epochs, **options)
        ran = [
            event.time_range.elapsed_us() / 1e6
            for event in profiled.events()
            if event.device_type == DeviceType.CUDA and not event.is_user_annotation
        ]
        counted.append((sum(ran), len(ran)))
    (short, few), (long, many) = counted
    steps = fit.further * fit.steps
    if many == few:
        raise UnavailableError("torch's profiler saw no kernels; it needs CUPTI")
    return (long - short) / steps, (many - few) / steps


def _first_steps(work: Path, sizes: tuple[int, int], rounds: int) -> Measured:
    """The whole fit of a few steps in a fresh process: no less than its first step."""
    file = screen_file(work, *sizes)
    found = [answer("first_steps.py", file, "--accelerator", _DEVICE) for _ in range(rounds)]
    took = np.array([one["seconds"] for one in found])
    note = f"{np.median(took):.1f} s for the first fit of a process, of {found[0]['steps']} steps"
    return Measured((took / _MOST_SECONDS_OF_FIRST_STEPS).tolist(), note)


def _prediction(work: Path, sizes: Sizes, rounds: int) -> Measured:
    found = [predicted(work, sizes, _DEVICE) for _ in range(rounds)]
    took = np.array([one["seconds"] for one in found])
    note = f"{np.median(took):.2f} s with the layers {', '.join(found[0]['layers'])}"
    return Measured((took / _MOST_SECONDS_OF_PREDICTION).tolist(), note)


def _captured(work: Path, fit: Fit) -> Measured:
    data, options = fit.data(work), _options(fit)
    auto, never = (
        cells_a_second(data, 1, 1 + fit.further, capture=how, **options) for how in ("auto", "never")
    )
    return Measured([auto / never], f"cells a second: auto {auto:,.0f}, never {never:,.0f}")


def _over_few(work: Path, fit: Fit) -> Measured:
    """And how much of the device's memory the larger one takes."""
    few = fit._replace(n_perturbations=20)
    speed = {}
    for one in (few, fit):
        torch.cuda.reset_peak_memory_stats()
        speed[one] = cells_a_second(one.data(work), 1, 1 + one.further, **_options(one))
    peak = torch.cuda.max_memory_allocated() / 2**30
    note = f"cells a second: {speed[fit]:,.0f}, and {speed[few]:,.0f} at 20; {peak:.2f} GiB on the device"
    return Measured([speed[fit] / speed[few]], note)


def _over_cpu(work: Path, fit: Fit, precision: str, rounds: int) -> Measured:
    data = fit.data(work)
    gpu, cpu = [], []
    for _ in range(rounds):
        gpu.append(cells_a_second(data, 1, 1 + fit.further, precision=precision, **_options(fit)))
        cpu.append(cells_a_second(data, 1, 2, batch_size=fit.batch_size))
    note = f"cells a second {np.median(gpu):,.0f}, CPU {np.median(cpu):,.0f}"
    return Measured((np.array(gpu) / np.array(cpu)).tolist(), note)
