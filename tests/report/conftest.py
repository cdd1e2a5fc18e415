"""What the tests of all reports share; each names its own `directory`."""

from pathlib import Path

import pytest

from lmtest.report import write_report
from lmtest.report.tables import RunTables, load


@pytest.fixture(scope="module")
def run(directory: Path) -> RunTables:
    return load(directory)


@pytest.fixture(scope="module")
def page(directory: Path) -> str:
    return write_report(directory).read_text(encoding="utf-8")
