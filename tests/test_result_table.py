"""The CSV format of results: read as it is written, and refused, with line and column, where it is faulty."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from audit_table import write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmtest.audit import audit
from lmtest.errors import UsageError
from lmtest.published import load_published
from lmtest.result_table import COLUMNS, EVERY, MOST_BYTES, MOST_ROWS, read_table

ROW = {"language": "anbn_tiny", "value": "0.5"}
REFUSED = [
    ({"langauge": "anbn_tiny"}, "unknown column 'langauge'; did you mean 'language'"),
    ({"value": "0.5"}, "the column 'language' is missing; expected language"),
    ({"language": "anbn_tiny", "note": "x"}, "expected at least one of the columns value, loss, kl, chance, prompts"),
    (ROW | {"value": "", "note": "x"}, "line 2: expected at least one of value, loss, kl, chance, prompts, found none"),
    (ROW | {"language": ""}, "line 2, language: expected a shipped language or a language file, found ''"),
    (ROW | {"language": "anbn_tinny"}, "line 2, language: no language 'anbn_tinny'.*did you mean 'anbn_tiny'"),
    (ROW | {"language": "a\0b"}, "line 2, language: "),
    (ROW | {"language": "."}, "line 2, language: "),
    (
        ROW | {"value": "43.7"},
        r"line 2, value: expected a share between 0 and 1 \(percentages divided by 100\), found 43.7",
    ),
    (ROW | {"chance": "-0.1"}, "line 2, chance: expected a share between 0 and 1"),
    (ROW | {"value": "half"}, "line 2, value: expected a finite number or nothing, found 'half'"),
    (ROW | {"value": "nan"}, "line 2, value: expected a finite number or nothing, found 'nan'"),
    (ROW | {"value": "0,5"}, "line 2, value: expected a finite number or nothing, found '0,5'"),
    (ROW | {"value": "٠.٥"}, "line 2, value: expected a finite number"),
    (ROW | {"loss": "1e999"}, "line 2, loss: expected a finite number"),
    (ROW | {"loss": "1e-99999999999999999999"}, "line 2, loss: expected a finite number"),
    (ROW | {"spread": "1e300"}, "line 2, spread: expected a finite number"),
    (ROW | {"n": "1_0"}, "line 2, n: expected a finite number"),
    (ROW | {"n": "0"}, "line 2, n: expected a whole number ≥ 1, found '0'"),
    (ROW | {"n": "2.5"}, "line 2, n: expected a whole number ≥ 1, found '2.5'"),
    (ROW | {"loss_spread": "-1"}, "line 2, loss_spread: expected a number ≥ 0, found '-1'"),
    (ROW | {"positions": "0.5"}, "line 2, positions: expected a number ≥ 1, found '0.5'"),
    (ROW | {"positions": "token"}, "line 2, positions: expected a finite number or nothing or 'string', found 'token'"),
    (ROW | {"prompts_trained": "-3"}, "line 2, prompts_trained: expected a number ≥ 0"),
    (ROW | {"unit": "bit"}, "line 2, unit: expected nats or bits, found 'bit'"),
    (ROW | {"chosen_by": "me"}, "line 2, chosen_by: expected loss or value, found 'me'"),
    (ROW | {"prompt_length": "18", "max_new_tokens": "1000"}, r"line 2: 262145 prompts with up to 1000 new tokens"),
    (ROW | {"max_new_tokens": "1000000"}, r"line 2: 257 prompts with up to 1000000 new tokens each are too many"),
    (ROW | {"prompt_length": "40"}, r"line 2, prompt_length: 2\^40 prompts are more than"),
]


@pytest.mark.parametrize(("row", "message"), REFUSED)
def test_a_faulty_cell_is_told_with_line_and_column(tmp_path: Path, row: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        audit(write(tmp_path / "t.csv", row))


FILES = [
    (b"", "is empty; expected a line of column names"),
    (b"\n , \n", "is empty"),
    (b"language,value\n", "has no rows below its column names"),
    (b"language,value,value\nanbn_tiny,1,1\n", "the column 'value' stands there 2 times; expected it once"),
    (
        b"language,value\nanbn_tiny,0.5,3\n",
        "line 2: expected 2 cells, one a column, found 3; put a cell that holds a comma",
    ),
    (b"language,value\nanbn_tiny\n", "line 2: expected 2 cells, one a column, found 1"),
    (b'language,value\n"anbn_tiny,0.5\n', "is no CSV file in UTF-8: "),
    (b'language,note,value\n"anbn_tiny"x,y,1\n', "is no CSV file in UTF-8: "),
    (b"\xff\xfe\x00", "is no CSV file in UTF-8: "),
    (b'language,note,value\nanbn_tiny,"two\nlines",1\n\nanbn_tiny,,one\n', "line 5, value: expected a finite number"),
    (b"language,value\n" + b"anbn_tiny,0.5\n" * (MOST_ROWS + 1), "expected at most 5000 rows, found 5001"),
    (b"language,value\n" + b" " * MOST_BYTES, "expected at most 20000000 bytes"),
]


@pytest.mark.parametrize(("data", "message"), FILES, ids=[message for _, message in FILES])
def test_a_faulty_file_is_told(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=message):
        audit(path)


def test_what_is_no_file_is_told_with_the_nearest_table(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.csv", "understanding_icml"):
        with pytest.raises(UsageError, match=r"no published table .*: neither a shipped name .* nor a file"):
            audit(path)


def test_marks_of_spreadsheets_are_no_part_of_a_table(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbflanguage, value ,note\r\n anbn_tiny ,0.50,\xc3\xa4\r\n,,\r\n\r\n")
    table = read_table(path, ["language"])
    assert table[["language", "value", "note", "line"]].to_numpy().tolist() == [["anbn_tiny", 0.5, "ä", 2]]
    assert list(table.columns[: len(EVERY)]) == EVERY
    assert table["loss"].isna().all()
    assert table["unit"].tolist() == [""]


def test_rounding_is_half_a_unit_of_the_last_digit(tmp_path: Path) -> None:
    for text, half in (("0.5", 0.05), ("0.500", 0.0005), ("1", 0.5), ("5e-3", 0.0005), ("1.50e2", 0.5), (".25", 0.005)):
        table = read_table(write(tmp_path / "t.csv", {"language": "x", "loss": text}), [])
        assert table.loc[0, "loss_rounding"] == pytest.approx(half)


def test_published_cells_in_bits_are_nats(tmp_path: Path) -> None:
    row = dict.fromkeys(COLUMNS, "x") | {"value": "0.5", "n": "3", "spread": "0.1", "positions": "string"}
    path = write(tmp_path / "t.csv", row | {"loss": "1.5", "loss_spread": "0.2", "unit": "bits"})
    [cell] = load_published(path).to_dict("records")
    assert [cell["loss"], cell["loss_spread"], cell["loss_rounding"]] == pytest.approx(
        [1.5 * math.log(2), 0.2 * math.log(2), 0.05 * math.log(2)]
    )
    assert cell["positions"] == 1


def test_statements_are_no_published_cells(tmp_path: Path) -> None:
    row = dict.fromkeys(COLUMNS, "") | {"language": "anbn", "chance": "0.3"}
    cell = (
        dict.fromkeys(COLUMNS, "x")
        | dict.fromkeys(["spread", "n", "loss", "loss_spread", "positions"], "")
        | {"value": "0.5"}
    )
    assert len(load_published(write(tmp_path / "t.csv", row, cell))) == 1
    with pytest.raises(UsageError, match="line 2, model: expected something"):
        load_published(write(tmp_path / "t.csv", row | {"chance": ""}, cell))


CELLS = st.one_of(
    st.sampled_from(
        ["", "0", "1", "0.5", "-1", "1e9", "1e15", "2", "string", "bits", "value", "id", "ood", "all", "R1_finished"]
    ),
    st.text(max_size=8),
)


def outcome(path: Path) -> int | str:
    """Rows of the audit, or how the error begins."""
    try:
        return len(audit(path).rows)
    except UsageError as error:
        return " ".join(str(error).split(" ")[:2]).rstrip("0123456789: ,")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.dictionaries(st.sampled_from(EVERY[1:]), CELLS, max_size=6), min_size=1, max_size=3))
def test_any_cells_are_audited_or_refused(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    path = write(tmp_path / "t.csv", *[{"language": "anbn_tiny"} | row for row in rows])
    assert outcome(path) in (len(rows), f"{path}, line", f"{path}: expected")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.one_of(
        st.binary(max_size=60), st.text(alphabet='language,value"\n\r0.5anbn_tiny\0 ', max_size=60).map(str.encode)
    )
)
def test_any_bytes_are_audited_or_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(data)
    assert outcome(path) in (1, 2, 3, f"{path}, line", f"{path} is", f"{path} has", f"{path}: the", f"{path}: unknown")
