"""Row 2: one training step through Pyro and the Lightning Trainer against the same step in plain torch."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from alternation import seconds
from case import Case, Measured, Target
from open_screen import in_memory
from plain_torch import PlainStep, program, train
from screen_file import screen_file
from step_times import step_ends

import pyro_citevae as cv

__all__ = ["cases"]

_STEPS_AN_EPOCH = 10
_SKIPPED = 5  # the first steps of a run, which allocate


def cases(quick: bool, work: Path) -> list[Case]:
    """256 cells x 2,000 genes, and 1,024 x 5,000; three latent steps."""
    sizes = [(8, 30, 1.25)] if quick else [(256, 2000, 1.25), (1024, 5000, 1.10)]
    epochs, rounds = (1, 2) if quick else (3, 7)
    return [
        Case(
            "training step",
            f"{batch_size:,} x {n_genes:,}",
            Target("ours over plain torch", "at most", bound),
            partial(_measured, work, batch_size, n_genes, epochs, rounds),
        )
        for batch_size, n_genes, bound in sizes
    ]


def _measured(work: Path, batch_size: int, n_genes: int, epochs: int, rounds: int) -> Measured:
    data = in_memory(screen_file(work, _STEPS_AN_EPOCH * batch_size, n_genes))
    model, guide = program(data.schema)
    options = {"batch_size": batch_size, "max_epochs": epochs}
    ours, plain = [], []
    for number in range(rounds + 1):  # the first one warms up
        made = [
            lambda: cv.fit(model, guide, data, validation=0.0, compile="never", progress=False, **options),
            lambda: train(PlainStep(model, guide), data, **options),
        ]
        taken = {}
        for which in (0, 1) if number % 2 else (1, 0):
            with step_ends() as ends:
                made[which]()
            taken[which] = np.median(np.diff(ends)[_SKIPPED:])
        if number:
            ours.append(taken[0])
            plain.append(taken[1])
    ratios = np.array(ours) / np.array(plain)
    note = f"median step: ours {seconds(np.array(ours))}, plain torch {seconds(np.array(plain))}"
    return Measured(ratios.tolist(), note)
