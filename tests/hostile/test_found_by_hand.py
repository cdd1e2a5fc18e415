"""What attackers found by hand, each once: refused in a line that says what to do, with the exit code that is due."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from hostile_inputs import lmtest, nothing_half_written, toml
from tiny import MAIN, TINY

from lmtest import cli, columns, limits, pool
from lmtest.cli.evaluate import _show as show_evaluation
from lmtest.errors import LmtestError, UsageError
from lmtest.languages import build_language, load_language
from lmtest.pipeline import run_study

UNIFORM = {"law": "uniform", "low": 1, "high": 3}
SETS = [word for override in (*TINY, "training.steps=2") for word in ("--set", override)]
TEMPLATE = {"title": "", "kind": "template", "template": "a^n b^n", "n": UNIFORM}
HUGE, DEEP = "0x" + "f" * 5000, "title" + ".a" * 1500 + " = 1"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    return tmp_path / "mine.toml"


@pytest.mark.parametrize("key", ["title", "kind", "max_length", "template", "rules.R.min_length", "n.high"])
def test_integers_that_python_cannot_print(mine: Path, key: str) -> None:
    mine.write_text(
        f"{key} = {HUGE}\n" + "".join(f'{k} = "{v}"\n' for k, v in TEMPLATE.items() if k not in (key, "n")), "utf-8"
    )
    assert "whole numbers between" in lmtest("describe", mine, codes=(2,)).err
    assert "whole numbers between" in lmtest("run", mine, "--dry-run", codes=(2,)).err


def test_keys_of_a_thousand_parts(mine: Path) -> None:
    mine.write_text(DEEP, "utf-8")
    assert "nested" in lmtest("describe", mine, codes=(2,)).err
    assert "nested" in lmtest("run", mine, "--dry-run", codes=(2,)).err


@pytest.mark.parametrize("rules", ["S -> S [0.99999999999999999999] | 'a' [0.00000000000000000001]",
                                   "S -> A [1.0]\nA -> S [0.99999999999999999999] | 'a' [0.00000000000000000001]",
                                   "S -> 'a' S [0.999999999999999] | 'a' [0.000000000000001]"])  # fmt: skip
def test_probabilities_that_floats_cannot_tell_from_0(mine: Path, rules: str) -> None:
    mine.write_bytes(toml({"title": "", "kind": "pcfg", "grammar": rules}))
    lmtest("--time-limit=1", "describe", mine, "--draws", "10", "--length", "1")
    lmtest("--time-limit=1", "sample", mine, codes=(1, 2))


@pytest.mark.parametrize("seconds", ["1e-9", "0.001", "1e12", "1e300", "inf"])
def test_any_time_limit(seconds: str) -> None:
    lmtest(f"--time-limit={seconds}", "sample", "anbn_tiny", codes=(0, 2))


def test_a_title_that_is_no_mathematics(mine: Path, tmp_path: Path) -> None:
    mine.write_bytes(toml(TEMPLATE | {"title": r"$\frac{$"}))
    lmtest("describe", mine, "--picture", tmp_path / "x.png", "--length", "1", "--draws", "10", codes=(0,))
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["", "/", ".", "/proc/x.png"])
def test_names_that_no_file_can_have(name: str) -> None:
    assert "write" in lmtest("describe", "anbn_tiny", "--length", "1", "--picture", name, codes=(1, 2)).err


def test_numbers_of_strings_beyond_all_bounds() -> None:
    assert "draw fewer" in lmtest("sample", "anbn_tiny", "-n", "9" * 22, codes=(2,)).err


def test_tables_of_positions_by_symbols_that_fill_the_memory() -> None:
    words = " ".join(f"w{i}" for i in range(34_000))
    language = build_language("wide", {"title": "", "kind": "template", "template": words}, "wide")
    with pytest.raises(UsageError, match="log-probabilities of a string"):
        language.log_prob([words])
    mixture = load_language("ginc_shared_random").definition
    wide = mixture | {"entities": 100, "properties": 98, "vocabulary": 800, "memory": "uniform", "length": 1}
    with pytest.raises(UsageError, match="states weighed"):
        build_language("wide", wide, "wide").sample(90_000, seed=0)


@pytest.mark.parametrize("override", [
    "training.batch=0xffffffffffffffffffff", "training.batch=100000000", "training.steps=9223372036854775807",
    "evaluators.rule_extrapolation.samples=100000000000000000000", "evaluators.rule_extrapolation.max_new_tokens=9223372036854775808",
    "saturation.epsilon=1e-320", f"models={{{'m' * 300}={{architecture='linear',width=4,context=40}}}}",
    "variants={" + ",".join(f"v{i}={{objective='maximum_likelihood'}}" for i in range(20_000)) + "}",
])  # fmt: skip
def test_numbers_and_names_of_a_study_without_measure(override: str) -> None:
    more = ["--set", "claims=[]", "--set", "published=[]", "--set", "published_tables=[]"]
    lmtest("run", MAIN, "--dry-run", "--set", override, *more, codes=(2,))


def test_a_study_whose_cells_cannot_be_files_leaves_no_folder(tmp_path: Path) -> None:
    seeds = ",".join(map(str, range(0, 600, 2)))
    done = lmtest("run", MAIN, "--seeds", seeds, "--set", "training.stack=600", "--out", tmp_path / "out", codes=(2,))
    assert "name of a cell" in done.err
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    overrides = (*TINY, "training.steps=2")
    return run_study(
        MAIN, out=tmp_path_factory.mktemp("runs") / "whole", overrides=overrides, seeds="0-1", jobs=1
    ).directory


def odd(table: pd.DataFrame, how: str) -> Any:
    if how == "none":
        return table.assign(**dict.fromkeys(table))
    if how == "counts":
        return table.assign(seed=float("nan")) if "seed" in table else table.assign(seeds_used=float("nan"))
    if how == "nullable":
        first = "kl" if "kl" in table else "value" if "value" in table else "effect"
        table = table.convert_dtypes()
        table.loc[0, first] = pd.NA
        return table
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    metadata = json.loads(arrow.schema.metadata[b"pandas"]) | {"index_columns": ["nope"]}
    return arrow.replace_schema_metadata({b"pandas": json.dumps(metadata).encode()})


@pytest.mark.parametrize("how", ["none", "counts", "nullable", "metadata"])
@pytest.mark.parametrize("name", ["verdicts", "certificates", "measurements"])
def test_tables_with_odd_cells_and_types(whole: Path, tmp_path: Path, name: str, how: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    path = run / f"{name}.parquet"
    table = odd(pd.read_parquet(path), how)
    pq.write_table(table, path) if isinstance(table, pa.Table) else table.to_parquet(path, index=False)
    lmtest("claims", run, codes=(0, 2, 3, 4))
    lmtest("report", run)
    nothing_half_written(run)


def test_a_table_of_a_thousand_million_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "MOST_ROWS", 10)
    pd.DataFrame({name: [0] * 11 for name in columns.VERDICTS}).to_parquet(tmp_path / "verdicts.parquet")
    with pytest.raises(UsageError, match="at most 10 rows"):
        columns.read(tmp_path / "verdicts.parquet", columns.VERDICTS, "delete it")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("resolved.json", {"title": "\ud800"}),
        ("env.json", {"device": "\ud800"}),
        ("env.json", {"seconds": 1e400}),
    ],
)
def test_json_that_is_no_text_or_no_number(whole: Path, tmp_path: Path, name: str, change: dict[str, Any]) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    said = json.loads((run / name).read_text("utf-8")) | change
    (run / name).write_text(json.dumps(said), "utf-8")
    assert name in lmtest("report", run, codes=(2,)).err


def test_a_factory_that_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "SystemExit" in lmtest("evaluate", "--language", "anbn_tiny", "--model", "sys:exit", codes=(2,)).err


def test_a_count_that_no_solver_decides_costs_seconds_and_is_said(mine: Path) -> None:
    mine.write_bytes(toml(TEMPLATE | {"rules": {"R": {"count": "a % 1000000 % 999999 * 999999 == b"}}}))
    lmtest("describe", mine, "--draws", "10", "--length", "1")


def test_what_is_checked_is_checked_in_words() -> None:
    with pytest.raises(LmtestError, match="at most 3 things, found infinitely many; have fewer"):
        limits.check("things", float("inf"), 3, "have fewer")


def test_links_devices_and_pipes_are_never_replaced_or_written_through(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("language,value,measure,prompt_set\nanbn_tiny,0.5,R1,ood\n", "utf-8")
    Path("precious").write_text("precious", "utf-8")
    Path("link").symlink_to("precious")
    os.mkfifo("pipe")
    for name in ("link", "pipe"):
        assert "a link, a device or a pipe" in lmtest("audit", "t.csv", "--out", name, codes=(2,)).err
    assert Path("link").is_symlink()
    assert Path("pipe").is_fifo()
    resume = ("run", MAIN, "--resume", "--seeds", "0-1", "--jobs", "1", "--quiet", *SETS)
    for name in ("log.jsonl", "figures", "cells"):
        run = tmp_path / f"run-{name}"
        shutil.copytree(whole, run)
        (run / name).rename(tmp_path / f"was-{name}")
        (run / name).symlink_to(tmp_path / ("precious" if name == "log.jsonl" else f"was-{name}"))
        assert "a link, a device or a pipe" in lmtest(*resume, "--out", run, codes=(2,)).err
    (run / "cells").unlink()
    (tmp_path / "was-cells").rename(run / "cells")
    (run / "log.jsonl").unlink()
    os.mkfifo(run / "log.jsonl")
    assert "a link, a device or a pipe" in lmtest(*resume, "--out", run, codes=(2,)).err
    (run / "log.jsonl").unlink()
    cell = next((run / "cells").iterdir())
    cell.rename(tmp_path / "was-cell")
    cell.symlink_to(tmp_path / "was-cell")
    assert "a link, a device or a pipe" in lmtest(*resume, "--out", run, codes=(2,)).err
    assert Path("precious").read_text("utf-8") == "precious"


def test_what_is_no_file_of_json_is_said_to_be_none(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    path = run / "resolved.json"
    evaluate = ("evaluate", "--language", "anbn_small", "--model", run, "--variant", "normal")
    resume = ("run", MAIN, "--resume", "--seeds", "0-1", "--jobs", "1", "--quiet", *SETS, "--out", run)
    path.write_text("[]", "utf-8")
    for words in (evaluate, resume, ("report", run)):
        assert "expected an object" in lmtest(*words, codes=(2,)).err
    path.unlink()
    os.mkfifo(path)
    for words in (evaluate, resume):
        assert "expected a file" in lmtest(*words, codes=(2,)).err
    path.unlink()
    path.symlink_to(path)
    for words in (evaluate, resume):
        assert "resolved.json" in lmtest(*words, codes=(2,)).err
    shutil.copy(whole / "resolved.json", run / "other.json")
    path.unlink()
    (run / "other.json").rename(path)
    shutil.rmtree(run / "figures")
    (run / "figures").write_text("", "utf-8")
    assert "expected a folder" in lmtest("report", run, codes=(2,)).err
    assert (
        "cannot find the model"
        in lmtest("evaluate", "--language", "anbn_tiny", "--model", "m:" + "x" * 5000 + "-", codes=(2,)).err
    )
    assert "x" in lmtest("evaluate", "--language", "anbn_tiny", "--model", "json:" + "x" * 5000, codes=(2,)).err


def test_a_cell_of_another_variant_is_refused(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (mine,) = (run / "cells").glob("*.normal.*")
    (other,) = (run / "cells").glob("*.oracle.*")
    shutil.rmtree(mine)
    shutil.copytree(other, mine)
    resume = ("run", MAIN, "--resume", "--seeds", "0-1", "--jobs", "1", "--quiet", *SETS)
    assert "of another cell" in lmtest(*resume, "--out", run, codes=(2,)).err


MODELS = """
import sys, torch
class Odd(BaseException): pass
class Mute(Exception):
    def __str__(self): raise ValueError
class Model:
    def __init__(self, law): self.law = law
    def next_log_probs(self, tokens): return self.law(tokens)
def fail(error):
    raise error
def law(tokens):
    return torch.full((1, *tokens.shape, 3), 1 / 3).log()
def odd(language): raise Odd("boo")
def mute(language): raise Mute
async def later(language): pass
class Property:
    @property
    def next_log_probs(self): raise ValueError("no")
def property_(language): return Property()
def odd_law(language): return Model(lambda tokens: fail(Odd("boo")))
def leaves(language): return Model(lambda tokens: sys.exit(0))
def ends(language): return Model(lambda tokens: fail(GeneratorExit()))
def mute_law(language): return Model(lambda tokens: fail(Mute()))
def meta(language): return Model(lambda tokens: law(tokens).to("meta"))
def sparse(language): return Model(lambda tokens: law(tokens).to_sparse())
def nested(language): return Model(lambda tokens: torch.nested.nested_tensor([law(tokens)[0]]))
def four_bits(language):
    return Model(lambda t: torch.zeros((1, *t.shape, 3), dtype=torch.uint8).view(torch.float4_e2m1fn_x2))
class Raising(torch.Tensor):
    def dim(self): raise ValueError("boo")
def raising(language): return Model(lambda tokens: torch.Tensor._make_subclass(Raising, law(tokens)))
def seeds(language): return Model(lambda tokens: law(tokens).expand(100_000, -1, -1, -1))
async def slow(tokens): return law(tokens)
def awaited(language): return Model(slow)
def on_meta(language):
    torch.set_default_device("meta"); torch.set_default_dtype(torch.float16)
    return Model(lambda tokens: torch.zeros(3))
def doubles(language):
    torch.set_default_dtype(torch.float64)
    return Model(lambda tokens: (torch.ones(1, *tokens.shape, 1) @ torch.full((1, 3), 1 / 3, dtype=torch.float64)).log())
def overwrites(language): return Model(lambda tokens: (law(tokens), tokens.zero_())[0])
"""


@pytest.mark.parametrize(("name", "codes"), [
    ("odd", (2,)), ("mute", (2,)), ("later", (2,)), ("property_", (2,)), ("odd_law", (1,)), ("leaves", (1,)), ("ends", (1,)),
    ("mute_law", (1,)), ("meta", (2,)), ("sparse", (0,)), ("nested", (1, 2)), ("four_bits", (2,)), ("raising", (2,)), ("seeds", (2,)),
    ("awaited", (2,)), ("on_meta", (2,)), ("doubles", (0,)), ("overwrites", (0,)),
])  # fmt: skip
def test_models_that_fail_in_odd_ways(
    name: str, codes: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"odd_{name}.py").write_text(MODELS, "utf-8")
    words = ("--set", "prompt_length=2", "--set", "max_new_tokens=4")
    lmtest("evaluate", "--language", "anbn_tiny", "--model", f"odd_{name}:{name}", *words, codes=codes)
    assert (torch.get_default_device().type, torch.get_default_dtype()) == ("cpu", torch.float32)


def test_lengths_that_no_picture_can_show(mine: Path, tmp_path: Path) -> None:
    mine.write_bytes(toml({"title": "", "kind": "pcfg", "grammar": "S -> 'a' S [0.9999999999] | [0.0000000001]"}))
    lmtest("--time-limit=1", "describe", mine, "--length", "1", "--picture", tmp_path / "p.png", codes=(1, 2))
    assert not (tmp_path / "p.png").exists()


def test_brackets_of_too_many_kinds(mine: Path) -> None:
    pairs = [[f"o{i}", f"c{i}"] for i in range(1001)]
    law = {"law": "uniform", "low": 2, "high": 4, "step": 2}
    mine.write_bytes(toml({"title": "", "kind": "brackets", "pairs": pairs, "discipline": "nested", "target": law}))
    assert "at most 1,000 pairs of brackets" in lmtest("describe", mine, codes=(2,)).err


def metadata_of(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    with safetensors.safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["lmtest"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


PROBE = {"seed": 99, "step": 2, "evaluator": "rule_extrapolation", "measure": "R1", "value": 0.0}

CHECKPOINTS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "beyond the end": ({"finished": False, "step": 3}, {}, "step 3 of 2"),
    "not at the end": ({"finished": True, "step": 1}, {}, "step 1 of 2, finished"),
    "a row too many": ({"stopped": {"7": 1}}, {}, "row 7 of 2 stopped at step 1"),
    "another's probe": ({"probes": [PROBE]}, {}, "a probe of seed 99"),
    "no probe": ({"probes": [{}]}, {}, "its metadata: the key 'progress.probes.0.seed' is missing"),
    "text": ({"step": "2"}, {}, "'progress.step': input should be a valid integer"),
    "no memory": ({"finished": False, "step": 1}, {}, "does not fit the model: exp_avg"),
    "more": ({}, {"model.zz": torch.zeros(1, 2)}, "does not fit the model: zz has shape"),
    "complex": ({}, {"model.zz": torch.zeros(1, dtype=torch.complex64)}, "model.zz is of torch.complex64"),
    "eight bits": ({}, {"model.zz": torch.zeros(1).to(torch.float8_e4m3fn)}, "model.zz is of torch.float8"),
}


@pytest.mark.parametrize("damage", CHECKPOINTS)
def test_checkpoints_that_say_or_hold_what_cannot_be(whole: Path, tmp_path: Path, damage: str) -> None:
    changes, tensors, message = CHECKPOINTS[damage]
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    path = next((run / "checkpoints").glob("*.normal.*"))
    told, found = metadata_of(path)
    told["progress"] |= changes
    path.write_bytes(safetensors.torch.save(found | tensors, {"lmtest": json.dumps(told)}))
    before = path.read_bytes()
    shutil.rmtree(run / "cells" / path.stem)
    with pytest.raises(UsageError, match=re.escape(message)):
        run_study(MAIN, out=run, overrides=(*TINY, "training.steps=2"), seeds="0-1", jobs=1, resume=True)
    assert path.read_bytes() == before
    if tensors:
        assert (
            "zz"
            in lmtest("evaluate", "--language", "anbn_small", "--model", run, "--variant", "normal", codes=(2,)).err
        )


def test_a_run_whose_models_diverge_ends_undecided(tmp_path: Path) -> None:
    overrides = [*TINY, "training.steps=3", "training.learning_rate=1e30", "training.clip=inf"]
    run = run_study(MAIN, out=tmp_path / "run", overrides=overrides, seeds="0", jobs=1)
    assert run.certificates.query("variant == 'normal'")["kl"].isna().all()
    assert set(run.verdicts["verdict"]) == {"undecided"}


def test_titles_and_places_are_no_markup(tmp_path: Path) -> None:
    place = tmp_path / "ob[/red]x"
    study = ("run", MAIN, "--seeds", "0", "--jobs", "1", *SETS, "--set", "title=[/red] [link=http://x]y[/link]")
    said = lmtest(*study, "--out", place)
    assert "[/red] [link=http://x]y[/link]" in said.err
    assert "ob[/red]x" in said.out.replace("\n", "")


def test_workers_import_nothing_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "struct.py").write_text("open('ran', 'w').close()", "utf-8")
    monkeypatch.chdir(tmp_path)
    with pool._safe_path():
        process = multiprocessing.get_context("spawn").Process(target=os.getpid)
        process.start()
    process.join()
    assert process.exitcode == 0
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("override", ["training.steps=4\nfoo=1", "training.steps=4\n[models.x]\nwidth=1"])
def test_one_override_is_one_key(override: str) -> None:
    assert "one key" in lmtest("run", MAIN, "--dry-run", "--set", override, codes=(2,)).err


@pytest.mark.parametrize("override", ["models.transformer.layers=100000000", "models.transformer.context=99999999999999",
                                      'derived.d={kind="longer",steps=99999999999999999}'])  # fmt: skip
def test_sizes_of_models_have_bounds(override: str) -> None:
    assert "less than or equal to" in lmtest("run", MAIN, "--dry-run", "--set", override, codes=(2,)).err


def test_arguments_that_are_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["lmtest", "describe", "l\udcff.toml"])
    assert cli._run() == 2


def test_terminals_that_do_not_know_a_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, "ascii"))
    monkeypatch.setattr("sys.argv", ["lmtest", "describe", "anbn_tiny", "--length", "1", "--draws", "10"])
    assert cli._run() == 0
    assert b"a?b?" in written.getvalue()  # the title has an exponent


def test_names_longer_than_any_file() -> None:
    name = "x" * 5000
    for words in (["describe", name], ["claims", name], ["run", MAIN, "--dry-run", "--set", f"language={name}"]):
        assert "File name too long" in lmtest(*words, codes=(2,)).err


def test_a_run_without_languages_has_no_model(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    told = json.loads((run / "resolved.json").read_text("utf-8"))
    (run / "resolved.json").write_text(json.dumps(told | {"languages": {}}), "utf-8")
    said = lmtest("export", "hf", run, "--out", tmp_path / "hf", "--variant", "oracle", codes=(2,)).err
    assert "is damaged: its resolved.json has no languages" in said.replace("\n", " ")


def test_means_of_numbers_at_the_end_of_the_floats(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"measure": "m", "prompt_set": "p", "decoding": "d", "lower": 0.0, "upper": 0.0, "count": 1, "chance": 0.5}
    certificates = pd.DataFrame(
        [dict.fromkeys(("seed", "kl", "kl_lower", "kl_upper", "kl_per_token", "exact", "saturated"), 0)] * 2
    )
    show_evaluation(certificates, pd.DataFrame([row | {"value": 1.5e308}] * 2), 0.01)
    assert "1.5e+308" in capsys.readouterr().out
