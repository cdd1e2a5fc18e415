"""Tables of results: read or refused with line and column, whatever their cells hold."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hostile_inputs import TEXTS, changed_bytes, changed_text, examples, lmtest, nothing_half_written
from hypothesis import given
from hypothesis import strategies as st

FOLDER = Path(__file__).parents[2] / "lmtest" / "published_data"
TABLES = [path.read_text("utf-8") for path in sorted(FOLDER.glob("*.csv"))]
CELLS = st.one_of(
    st.sampled_from(
        [
            "",
            "0",
            "1",
            "-1",
            "1.5",
            "nan",
            "inf",
            "1e400",
            "1e-400",
            "0." + "0" * 400 + "1",
            "9" * 400,
            "0x10",
            "1_000",
            "٣",
        ]
    ),
    st.sampled_from(
        [
            "anbn",
            "dyck2",
            "sums",
            "/etc/passwd",
            "../x",
            ".",
            "R1",
            "ood",
            "id",
            "all",
            "people",
            "bits",
            "string",
            "1e5",
        ]
    ),
    TEXTS,
)


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    """A few rows of a shipped table with cells, names of columns or columns changed; or its bytes."""
    text = draw(st.sampled_from(TABLES))
    if draw(st.integers(0, 4)) == 0:
        short = "\n".join(text.splitlines()[:6])
        return draw(
            st.one_of(changed_bytes(short.encode()), changed_text(short).map(lambda t: t.encode("utf-8", "replace")))
        )
    header, *rows = csv.reader(io.StringIO(text))
    rows = [list(rows[i]) for i in draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=4))]
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(header) - 1))
        how = draw(st.sampled_from(["cell", "cell", "cell", "name", "column"]))
        if how == "name":
            header[place] = draw(st.sampled_from([*header, "foo", ""]))
        elif how == "column" and len(header) > 1:
            header = header[:place] + header[place + 1 :]
            rows = [row[:place] + row[place + 1 :] for row in rows]
        else:
            draw(st.sampled_from(rows))[min(place, len(header) - 1)] = draw(CELLS)
    file = io.StringIO()
    csv.writer(file).writerows([header, *rows])
    return file.getvalue().encode("utf-8", "replace")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables")


@examples(1.5)
@given(tables(), st.sampled_from([(), ("--json",), ("--epsilon", "0.1"), ("--epsilon", "-1"), ("--finding", "x")]))
def test_a_faulty_table_is_audited_or_one_clear_line(folder: Path, data: bytes, words: tuple[str, ...]) -> None:
    (folder / "table.csv").write_bytes(data)
    done = lmtest("audit", folder / "table.csv", *words, "--out", folder / "audited.csv")
    assert (folder / "audited.csv").exists() == (done.code == 0)
    nothing_half_written(folder / "audited.csv") if done.code == 0 else None
    assert (folder / "table.csv").read_bytes() == data
    (folder / "audited.csv").unlink(missing_ok=True)
