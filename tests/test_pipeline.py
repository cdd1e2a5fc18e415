"""The pipeline end to end on a tiny study: tables, resumption to the bit, jobs, refusals, interruption."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny import MAIN, TINY

import lmtest
from lmtest import atomic
from lmtest.cells import Cell, cells
from lmtest.columns import CERTIFICATES, MEASUREMENTS, TRAJECTORY
from lmtest.directory import Run
from lmtest.errors import Interrupted, LmtestError, UsageError
from lmtest.pipeline import Silent, run_study
from lmtest.study import load_study

REFERENCES = ("language", "uniform", "stop", "rule_keeper", "ngram", "normative")
TABLES = ("certificates", "measurements", "trajectory", "completions", "verdicts")


class Stopper(Silent):
    """Stops the run, as Ctrl-C does, when the second cell is under way."""

    def step(self, cell: Cell, step: int, excess: float) -> None:
        if cell.variant == "oracle":
            os.kill(os.getpid(), signal.SIGTERM)


def tiny(out: Path, **more: object) -> Run:
    options = {"overrides": TINY, "seeds": "0-3", "jobs": 1, **more}
    return run_study(MAIN, out=out, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tiny(tmp_path_factory.mktemp("runs") / "straight")


def same_tables(one: Run, two: Run) -> None:
    for name in TABLES:
        pd.testing.assert_frame_equal(one.table(name), two.table(name), check_exact=True)


def test_a_run_leaves_everything_the_contract_names(straight: Run) -> None:
    names = {path.name for path in straight.directory.iterdir()}
    assert {"config.toml", "resolved.json", "env.json", "log.jsonl", "checkpoints", "figures", "report.html"} <= names
    assert {f"{name}.parquet" for name in TABLES} <= names
    assert (straight.directory / "config.toml").read_text() == MAIN.read_text()
    assert list(straight.certificates.columns) == list(CERTIFICATES)
    assert list(straight.measurements.columns) == list(MEASUREMENTS)
    assert list(straight.trajectory.columns) == list(TRAJECTORY)
    assert list(straight.verdicts.columns)[:10] == (
        [
            "claim",
            "statement",
            "verdict",
            "effect",
            "lower",
            "upper",
            "p_value",
            "seeds_used",
            "seeds_asked",
            "published",
        ]
    )
    assert not list(straight.directory.rglob("*.tmp"))
    assert len(list((straight.directory / "checkpoints").glob("*.safetensors"))) == 6


def test_every_seed_variant_and_reference_is_in_the_tables(straight: Run) -> None:
    trained = straight.certificates[straight.certificates["variant"] != "reference"]
    assert len(trained) == 12
    assert set(trained["seed"]) == {0, 1, 2, 3}
    assert trained["exact"].all()
    assert (trained["kl"] > 0).all()
    references = straight.certificates[straight.certificates["variant"] == "reference"].set_index("model")
    assert set(references.index) == {"language", "uniform", "stop", "rule_keeper", "ngram", "normative"}
    assert references.loc["language", "kl"] == pytest.approx(0, abs=1e-12)
    assert np.isinf(references.loc["stop", "kl"])
    assert set(straight.measurements["prompt_set"]) == {"id", "ood", "ood_trained", "ood_heldout", "empty"}
    assert set(straight.trajectory["step"]) == {0, 10, 20}


def test_the_end_of_the_trajectory_is_the_measurement(straight: Run) -> None:
    keys = ["variant", "seed", "measure", "prompt_set", "decoding"]
    last = straight.trajectory[straight.trajectory["step"] == 20].set_index(keys)["value"].sort_index()
    final = straight.measurements.set_index(keys)["value"].sort_index()
    assert len(last) == 12 * 14
    pd.testing.assert_series_equal(last, final[last.index], check_exact=True)


def test_too_little_training_leaves_every_claim_undecided(straight: Run) -> None:
    assert set(straight.verdicts["verdict"]) == {"undecided"}
    assert straight.verdicts["note"].str.contains("saturated").all()


def test_interrupted_and_resumed_on_more_jobs_is_the_straight_run_to_the_bit(straight: Run, tmp_path: Path) -> None:
    out = tmp_path / "resumed"
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted):
        tiny(out, display=Stopper())
    assert signal.getsignal(signal.SIGTERM) == before
    assert not (out / "measurements.parquet").exists()
    done = {path.name: path.stat().st_mtime_ns for path in (out / "checkpoints").iterdir()}
    assert 0 < len(done) < 6
    resumed = tiny(out, resume=True, jobs=2)
    same_tables(straight, resumed)
    finished = [name for name in done if "adversarial" in name]
    assert finished
    for name in finished:  # what was finished is not redone
        assert (out / "checkpoints" / name).stat().st_mtime_ns == done[name]


def test_resuming_a_finished_run_changes_nothing(straight: Run) -> None:
    before = {name: straight.table(name) for name in TABLES}
    again = tiny(straight.directory, resume=True)
    for name in TABLES:
        pd.testing.assert_frame_equal(before[name], again.table(name), check_exact=True)


def test_resume_starts_afresh_where_there_is_nothing(tmp_path: Path) -> None:
    assert len(tiny(tmp_path / "new", resume=True, seeds="1", overrides=(*TINY, "claims=[]")).certificates) == 3 + len(
        REFERENCES
    )


def test_a_seed_alone_agrees_with_the_stack(straight: Run, tmp_path: Path) -> None:
    alone = tiny(tmp_path / "alone", seeds="2")
    keys = ["variant", "seed"]
    one = alone.certificates[alone.certificates["variant"] != "reference"].set_index(keys)["kl"]
    many = straight.certificates.set_index(keys)["kl"]
    assert ((one - many[one.index]).abs() < 1e-3).all()


def test_an_existing_folder_is_not_touched(straight: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exists: --resume continues it"):
        tiny(straight.directory)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("…")
    with pytest.raises(UsageError, match="no run directory"):
        tiny(tmp_path / "other", resume=True)
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.tex"]


def test_a_changed_study_is_not_resumed(straight: Run) -> None:
    with pytest.raises(UsageError, match=r"cannot resume .*training.steps was 20 and is now 30"):
        tiny(straight.directory, resume=True, overrides=(*TINY, "training.steps=30"))


def test_a_changed_vocabulary_is_not_resumed(tmp_path: Path) -> None:
    def language(second: str) -> None:
        (tmp_path / "mine.toml").write_text(
            'title = "mine"\nkind = "template"\n'
            f'template = "a^n {second}^n"\nn = {{ law = "uniform", low = 1, high = 4 }}\n'
            f'[rules]\nR1 = {{ count = "a == {second}" }}\n'
        )

    study = tmp_path / "study.toml"
    study.write_text(MAIN.read_text().split("[[claims]]")[0].replace('"anbn_small"', '"mine.toml"'))
    language("b")
    options = {"out": tmp_path / "out", "overrides": TINY, "seeds": "0", "jobs": 1}
    run_study(study, **options)  # type: ignore[arg-type]
    language("c")
    with pytest.raises(UsageError, match=r"cannot resume .*and is now"):
        run_study(study, resume=True, **options)  # type: ignore[arg-type]


def test_a_truncated_checkpoint_is_named(straight: Run, tmp_path: Path) -> None:
    out = tmp_path / "broken"
    with pytest.raises(Interrupted):
        tiny(out, display=Stopper())
    victim = next(path for path in (out / "checkpoints").iterdir() if "oracle" in path.name)
    victim.write_bytes(victim.read_bytes()[:500])
    with pytest.raises(UsageError, match=rf"{victim.name} is damaged .* --resume trains this part again"):
        tiny(out, resume=True)
    victim.unlink()
    same_tables(straight, tiny(out, resume=True))


def test_a_full_disk_is_said_and_loses_nothing(straight: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "full"
    real = os.fsync

    def full(descriptor: int) -> None:
        if "oracle" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(LmtestError, match="the disk is full"):
        tiny(out)
    assert not list(out.rglob("*.tmp"))
    monkeypatch.setattr(atomic.os, "fsync", real)
    same_tables(straight, tiny(out, resume=True))


@pytest.mark.parametrize(
    ("seconds", "number"),
    [(1, signal.SIGINT), (12, signal.SIGINT), (12, signal.SIGHUP)],
    ids=["while workers import", "in training", "the terminal goes away"],
)
def test_ctrl_c_on_the_command_line_exits_with_130_and_resumes(tmp_path: Path, seconds: int, number: int) -> None:
    out = tmp_path / "out"
    # Long enough to be caught in training; the same study otherwise.
    sets = [word for key in (*TINY, "training.steps=100000", "training.probe_every=50000") for word in ("--set", key)]
    command = [sys.executable, "-m", "lmtest.cli", "run", str(MAIN), "--out", str(out), "--seeds", "0-3", "--jobs", "2"]
    process = subprocess.Popen([*command, *sets, "--quiet"], stderr=subprocess.PIPE, start_new_session=True, text=True)
    deadline = time.monotonic() + 90
    while not (out / "log.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(seconds)
    os.killpg(process.pid, number)  # the whole group, as a terminal does
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 130
    assert "--resume continues" in errors
    assert "Traceback" not in errors
    assert not list(out.rglob("*.tmp"))


def test_a_killed_worker_is_said_to_be_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lmtest.cli", "run", str(MAIN), "--out", str(tmp_path / "out"), "--seeds", "0-3"]
    sets = [word for key in TINY for word in ("--set", key)]
    process = subprocess.Popen(
        [*command, "--jobs", "2", *sets, "--quiet"], stderr=subprocess.PIPE, start_new_session=True, text=True
    )
    deadline = time.monotonic() + 90
    while not (workers := spawned(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(workers[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 1
    assert "a worker was killed" in errors


def spawned(leader: int) -> list[int]:
    """The workers of a group."""
    return [pid for pid in group(leader) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_workers_die_with_a_killed_parent(tmp_path: Path) -> None:
    out = tmp_path / "out"
    sets = [word for key in (*TINY, "training.steps=100000", "training.probe_every=50000") for word in ("--set", key)]
    command = [sys.executable, "-m", "lmtest.cli", "run", str(MAIN), "--out", str(out), "--seeds", "0-3", "--jobs", "2"]
    process = subprocess.Popen([*command, *sets, "--quiet"], start_new_session=True)
    deadline = time.monotonic() + 60
    while len(group(process.pid)) < 3 and time.monotonic() < deadline:
        time.sleep(0.3)
    assert len(group(process.pid)) >= 3
    time.sleep(8)  # the workers have started up
    process.kill()
    process.wait()
    while group(process.pid) and time.monotonic() < deadline + 60:
        time.sleep(0.3)
    assert not group(process.pid)


def group(leader: int) -> list[int]:
    """Living processes of a process group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[2]) == leader and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def test_a_run_killed_at_its_very_beginning_starts_afresh(tmp_path: Path) -> None:
    out = tmp_path / "half"
    out.mkdir()
    (out / "config.toml").write_text("half wri")
    (out / ".resolved.json.1-2.tmp").write_text("{")
    assert len(tiny(out, resume=True, seeds="0", overrides=(*TINY, "claims=[]")).certificates) == 3 + len(REFERENCES)


def test_damaged_tables_and_records_are_said_or_passed_over(straight: Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(straight.directory, out)
    (out / "env.json").write_text('{"seconds": ')
    tiny(out, resume=True)
    victim = next((out / "cells").rglob("completions.parquet"))
    victim.write_bytes(victim.read_bytes()[:100])
    with pytest.raises(UsageError, match=r"completions.parquet is damaged .* delete it"):
        tiny(out, resume=True)
    victim.unlink()
    same_tables(straight, tiny(out, resume=True))
    straight.certificates.to_parquet(out / "verdicts.parquet")
    with pytest.raises(UsageError, match="lacks the column 'claim'"):
        _ = Run(out).verdicts


def test_a_language_without_rules_can_be_trained_and_certified(tmp_path: Path) -> None:
    study = tmp_path / "study.toml"
    study.write_text(
        'title = "dyck"\nlanguage = "dyck2"\nseeds = 2\n'
        '[models.small]\narchitecture = "transformer"\nlayers = 1\nwidth = 8\nheads = 2\nfeed_forward = 8\n'
        "[training]\nsteps = 5\nprobe_every = 5\nbatch = 8\n[variants.normal]\n"
        'objective = "maximum_likelihood"\n[saturation]\ndraws = 20\n'
        "[evaluators.rule_extrapolation]\nprompt_length = 3\nmax_new_tokens = 8\nsamples = 10\n"
    )
    run = run_study(study, out=tmp_path / "out", jobs=1)
    assert set(run.measurements["measure"]) == {"grammatical", "finish_rate"}
    trained = run.certificates[run.certificates["variant"] == "normal"]
    assert not trained["exact"].any()
    assert (trained["kl_lower"] < trained["kl"]).all()
    assert (run.directory / "report.html").is_file()


def test_stacks_are_cut_by_the_study_alone() -> None:
    study, languages = load_study(MAIN, [*TINY, "training.stack=3"], "0-6")
    assert [cell.seeds for cell in cells(study, languages)][:3] == [(0, 1, 2), (3, 4, 5), (6,)]


def test_the_python_interface_is_the_contract() -> None:
    assert lmtest.run_study is run_study
    assert callable(lmtest.load_language)


def test_the_resolved_file_has_the_floor_and_a_schema_version(straight: Run) -> None:
    resolved = json.loads((straight.directory / "resolved.json").read_text())
    assert resolved["schema_version"] == 2
    assert resolved["languages"]["anbn_small"]["entropy"] == {
        "value": pytest.approx(np.log(16)),
        "half_width": 0.0,
        "exact": True,
    }
    assert resolved["languages"]["anbn_small"]["prompt_sets"]["ood_heldout"]["mass"] == 0.0
