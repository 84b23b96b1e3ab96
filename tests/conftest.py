"""Shapes in annotations are checked, distributions validate, and no test leaves global state changed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from jaxtyping import install_import_hook

with install_import_hook("pyro_citevae", "type_checker.check"):
    import pyro_citevae  # noqa: F401

import pyro
import torch

collect_ignore = ["arviz1"]  # runs under ArviZ 1.x: make test-arviz1


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what needs CUDA where there is none."""
    if not torch.cuda.is_available():
        left_out = [item for item in items if item.get_closest_marker("gpu")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture(autouse=True)
def global_state_is_left_alone() -> Iterator[None]:
    state = torch.random.get_rng_state()
    yield
    assert not pyro.get_param_store().keys(), "a test filled the global parameter store"
    assert torch.get_default_dtype() == torch.float32
    torch.random.set_rng_state(state)
