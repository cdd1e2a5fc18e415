"""One torch thread in the tests: they run side by side on the cores there are."""

import pytest
import torch
from hypothesis import settings

from lmtest.languages import Language, load_language

settings.register_profile("long", max_examples=5000, deadline=None)  # see tests/hostile_inputs.py


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def anbn_small() -> Language:
    return load_language("anbn_small")
