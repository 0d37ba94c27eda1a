"""Check every shape that a signature states while the tests run."""

from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook

install_import_hook("fiducial", "typecheck.check")

# Examples are the same in every run, and none is timed: machines are noisy.
hypothesis.settings.register_profile("house", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("house")

torch.set_num_threads(1)  # the suite runs on one process per core


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of public datasets beside the project, where it is present."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the public datasets are not beside the project (../shared/data)")
    return folder
