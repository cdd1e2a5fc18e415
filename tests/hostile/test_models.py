"""Strangers' models: a damaged checkpoint, a damaged Hugging Face folder, an object that breaks its contract."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile_inputs import changed, changed_bytes, examples, or_refused
from hypothesis import given
from hypothesis import strategies as st
from strangers import characters, gpt2, save

from lmtest.adapters.given import Given, Guarded
from lmtest.adapters.hugging_face import from_folder
from lmtest.errors import LmtestError
from lmtest.evaluate import evaluate
from lmtest.languages import load_language
from lmtest.training import checkpoint

LANGUAGE = load_language("anbn_tiny")
IDENTITY = {"language": "anbn_tiny", "seeds": [0, 1]}
SMALL = ["prompt_length=3", "max_new_tokens=4", "samples=10"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoints") / "whole.safetensors"
    probes = [{"step": 0, "seed": 0, "value": 0.5}]
    progress = checkpoint.Progress(step=3, stopped={1: 2}, probes=probes, finished=True)
    checkpoint.save(path, IDENTITY, progress, {"w": torch.zeros(2, 3)}, {"exp_avg.w": torch.zeros(2, 3)})
    return path


@examples(1)
@given(st.data())
def test_the_bytes_of_a_checkpoint(saved: Path, data: st.DataObject) -> None:
    path = saved.with_name("damaged.safetensors")
    path.write_bytes(data.draw(changed_bytes(saved.read_bytes())))
    loaded = or_refused(lambda: checkpoint.load(path, IDENTITY))
    assert loaded is None or set(loaded[1]) == {"w"}


@examples(1)
@given(st.data())
def test_what_a_checkpoint_says_of_itself(saved: Path, data: st.DataObject) -> None:
    import safetensors.torch

    progress = {"step": 3, "stopped": {"1": 2}, "probes": [], "finished": True}
    told = data.draw(changed({"schema": 1, "identity": IDENTITY, "progress": progress}))
    path = saved.with_name("told.safetensors")
    path.write_bytes(safetensors.torch.save({"model.w": torch.zeros(2)}, {"lmtest": json.dumps(told, default=str)}))
    if (loaded := or_refused(lambda: checkpoint.load(path, IDENTITY))) is not None:
        assert isinstance(loaded[0].step, int)
        assert isinstance(loaded[0].finished, bool)
        assert all(isinstance(row, int) and isinstance(step, int) for row, step in loaded[0].stopped.items())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("hf") / "whole", gpt2(3), characters(LANGUAGE.symbols))


@examples(0.4)
@given(st.data())
def test_a_hugging_face_folder(folder: Path, data: st.DataObject) -> None:
    other = folder.with_name("damaged")
    shutil.rmtree(other, ignore_errors=True)
    shutil.copytree(folder, other)
    path = data.draw(st.sampled_from(sorted(path for path in other.iterdir() if path.is_file())))
    if path.suffix == ".json" and data.draw(st.booleans()):
        path.write_text(json.dumps(data.draw(changed(json.loads(path.read_text("utf-8")))), default=str), "utf-8")
    else:
        path.write_bytes(data.draw(changed_bytes(path.read_bytes())))
    given = or_refused(lambda: from_folder(other, LANGUAGE))
    if given is not None:
        or_refused(lambda: evaluate(LANGUAGE, given, "rule_extrapolation", SMALL, draws=20))


class Odd:
    """An object that answers with whatever it was given."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def next_log_probs(self, tokens: torch.Tensor) -> Any:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer(tokens) if callable(self.answer) else self.answer


def law(tokens: torch.Tensor, fill: float = -1.0986, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.full((1, *tokens.shape, 3), fill, dtype=dtype)


@pytest.mark.parametrize(
    "answer",
    [
        *(
            None,
            5,
            "law",
            [[0.0]],
            torch.zeros(3),
            torch.zeros(0, 8, 5, 3),
            ValueError("no"),
            KeyError("a"),
            RecursionError(),
        ),
        *(
            MemoryError(),
            StopIteration(),
            AssertionError(),
            RuntimeError("out of memory"),
            lambda t: t,
            lambda t: t.double(),
        ),
        *(
            lambda t: law(t, 0.0),
            lambda t: law(t, float("nan")),
            lambda t: law(t, float("-inf")),
            lambda t: law(t)[:, :, :1],
        ),
        *(lambda t: law(t)[..., :2], lambda t: law(t).int(), lambda t: law(t).to(torch.complex64), lambda t: law(t)[0]),
        *(
            lambda t: torch.rand(1, *t.shape, 3).log_softmax(-1),
            lambda t: law(t) - t.sum(),
            lambda t: law(t).expand(0, -1, -1, -1),
        ),
    ],
)
def test_an_object_that_breaks_the_contract_is_told_so(answer: Any) -> None:
    given = Given("odd", Guarded(Odd(answer), LANGUAGE.vocabulary, "odd"))
    with pytest.raises(LmtestError, match="odd"):
        evaluate(LANGUAGE, given, "rule_extrapolation", SMALL, draws=20)


@pytest.mark.parametrize("target", ["../outside.bin", "pytorch_model.bin", "/etc/passwd", "other.safetensors", 5])
def test_an_index_of_weights_leads_nowhere_else(folder: Path, tmp_path: Path, target: Any) -> None:
    """The library would read, and unpickle, whatever file the index names."""
    other = tmp_path / "indexed"
    shutil.copytree(folder, other)
    (other / "model.safetensors").rename(other / "z.safetensors")
    index = {"metadata": {"total_size": 1}, "weight_map": {"transformer.wte.weight": target}}
    (other / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    with pytest.raises(LmtestError, match="names of"):
        from_folder(other, LANGUAGE)
