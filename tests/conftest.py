"""One torch thread in the tests: they run side by side on the cores there are."""

import pytest
import torch

from lmtest.languages import Language, load_language


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def anbn_small() -> Language:
    return load_language("anbn_small")
