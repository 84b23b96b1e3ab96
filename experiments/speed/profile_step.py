"""Where the time of a training step goes, by part and by operation, from torch's profiler.

python experiments/speed/profile_step.py                    256 cells x 2,000 genes
python experiments/speed/profile_step.py --batch-size 1024 --genes 5000 -o experiments/speed/profile_large.md
python experiments/speed/profile_step.py --accelerator gpu -o experiments/speed/profile_gpu.md

The profiler itself slows small operations, so that parts with many of them look longer than they are; the
time of a step without it stands in the first line, on a GPU with the time that its kernels run. (Python's own
profiler would import a file that is called profile.py in place of its own.)
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import machine
import numpy as np
import torch
from open_screen import in_memory
from screen_file import screen_file
from step_times import step_ends
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

import pyro_citevae as cv
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.models import CiteVAE
from pyro_citevae.nn.networks import Decoder

HERE = Path(__file__).parent
_SHOWN = 15  # operations
_ACTIVITIES = {
    "cpu": [ProfilerActivity.CPU],
    "gpu": [ProfilerActivity.CPU, ProfilerActivity.CUDA],
}
_UPDATE = "Adam"  # without the closure that Lightning hands to its step
# A part is the time within these calls, and within no other of them.
_PARTS = (
    ("minibatch: rows of CSR, doses, labels", cv.Trajectories, "batch"),
    ("guide: forward", BackwardSmoother, "forward"),
    ("guide: counts made dense, encoder, forward", BackwardSmoother, "summary"),
    ("model: forward", CiteVAE, "forward"),
    ("model: decoder, forward", Decoder, "forward"),
    ("model: softmax and law of the counts, forward", CiteVAE, "emission"),
    ("log probability of the counts, forward", cv.counts.NegativeBinomial, "log_prob_of_rows"),
    ("backward of everything", torch.Tensor, "backward"),
    (_UPDATE, import_module("torch.optim.adam"), "adam"),
)


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--steps", type=int, default=10, help="Steps of an epoch.")
    parser.add_argument("-o", "--out", type=Path, default=HERE / "profile.md", help="File of the table.")
    parser.add_argument("--work", type=Path, default=Path("runs/speed"), help="Folder of simulated screens.")
    chosen = parser.parse_args(given)
    data = in_memory(screen_file(chosen.work, chosen.steps * chosen.batch_size, chosen.genes))
    text = table(data, chosen.batch_size, chosen.accelerator, machine.described())
    chosen.out.write_text(text + "\n")
    print(text)


def table(data: cv.Trajectories, batch_size: int, accelerator: str, described: dict[str, Any]) -> str:
    """Median time of a step without the profiler, and what it spends within the profiler by part."""
    steps = data.n_cells // batch_size
    with step_ends() as ends:
        fitted(data, batch_size, accelerator)
    bare = float(np.median(np.diff(ends)[steps // 2 :]))
    with marked(), profile(activities=_ACTIVITIES[accelerator]) as profiled:
        fitted(data, batch_size, accelerator)
    took, parts = own_times(profiled, steps)
    rest = took - sum(parts.values())
    shares = [*parts.items(), ("the rest: Pyro, latent densities, trainer, clipping", rest)]
    lines = [
        f"{batch_size:,} cells x {data.schema.n_genes:,} genes, 3 latent steps: {1e3 * bare:.1f} ms a step; "
        f"{1e3 * took / steps:.1f} ms within the profiler{in_kernels(profiled, steps)}.",
        "",
        "| part | ms a step | share |",
        "|---|---|---|",
        *(f"| {part} | {1e3 * one / steps:.2f} | {one / took:.0%} |" for part, one in shares),
        "",
        "| operation | own ms a step | calls a step |",
        "|---|---|---|",
        *operations(profiled, steps),
        "",
        f"{machine.moment(described)}; {machine.sentence(described)}",
    ]
    return "\n".join(lines)


def fitted(data: cv.Trajectories, batch_size: int, accelerator: str) -> None:
    """Two epochs, of which the first warms up."""
    model = CiteVAE(data.schema, hidden=128)
    guide = BackwardSmoother(model, hidden=128)
    options = {"batch_size": batch_size, "max_epochs": 2, "accelerator": accelerator}
    cv.fit(model, guide, data, validation=0.0, progress=False, **options)


@contextmanager
def marked() -> Iterator[None]:
    """Names the calls of the parts in the profile."""
    with ExitStack() as stack:
        for part, owner, name in _PARTS:
            stack.enter_context(patch.object(owner, name, _named(part, getattr(owner, name))))
        yield


def _named(part: str, call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def within(*args: Any, **kwargs: Any) -> Any:
        with record_function(part):
            return call(*args, **kwargs)

    return within


def second_epoch(profiled: profile, steps: int) -> tuple[float, float]:
    """From the last update of the first epoch to that of the second, in the profiler's microseconds."""
    updates = sorted(
        event.time_range.end
        for event in profiled.events()
        if event.name == _UPDATE and event.device_type == DeviceType.CPU
    )
    return updates[steps - 1], updates[-1]


def own_times(profiled: profile, steps: int) -> tuple[float, dict[str, float]]:
    """Seconds of the second epoch, and of each part of it less those of the parts inside."""
    first, last = second_epoch(profiled, steps)
    own = {part: 0.0 for part, *_ in _PARTS}
    events = [
        event
        for event in profiled.events()
        if event.name in own and event.device_type == DeviceType.CPU and first <= event.time_range.start
    ]
    open_: list[Any] = []
    for event in sorted(events, key=lambda event: (event.time_range.start, -event.time_range.end)):
        while open_ and open_[-1].time_range.end <= event.time_range.start:
            open_.pop()
        took = event.time_range.elapsed_us() / 1e6
        if event.time_range.start < last:
            own[event.name] += took
            if open_:
                own[open_[-1].name] -= took
        open_.append(event)
    return (last - first) / 1e6, own


def in_kernels(profiled: profile, steps: int) -> str:
    """How long a GPU computed within a step, and with how many kernels; nothing where there was none."""
    first, last = second_epoch(profiled, steps)
    ran = [
        event.time_range.elapsed_us()
        for event in profiled.events()
        if event.device_type == DeviceType.CUDA
        and first <= event.time_range.start < last
        and not event.is_user_annotation
    ]
    if not ran:
        return ""
    return f", of which {sum(ran) / 1e3 / steps:.1f} ms in {len(ran) / steps:,.0f} kernels and copies"


def operations(profiled: profile, steps: int) -> list[str]:
    """Lines of the operations that take most time of their own in the second epoch."""
    first, last = second_epoch(profiled, steps)
    parts = {part for part, *_ in _PARTS}
    taken: dict[str, list[float]] = {}
    for event in profiled.events():
        on_cpu = event.device_type == DeviceType.CPU
        if on_cpu and first <= event.time_range.start < last and event.name not in parts:
            taken.setdefault(event.name, []).append(event.self_cpu_time_total / 1e3)
    most = sorted(taken.items(), key=lambda one: -sum(one[1]))[:_SHOWN]
    return [f"| `{name}` | {sum(own) / steps:.2f} | {len(own) / steps:.0f} |" for name, own in most]


if __name__ == "__main__":
    main()
