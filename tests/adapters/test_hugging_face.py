"""A stranger's Hugging Face model: its laws and certificate are those of the network read by hand."""

import json
import math
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from strangers import characters, gpt2, save

from lmtest.adapters.checks import check_model
from lmtest.adapters.hugging_face import HuggingFaceModel, from_folder
from lmtest.errors import LmtestError, UsageError
from lmtest.evaluate import evaluate, mass_outside
from lmtest.languages import Language, load_language


@pytest.fixture(scope="module")
def tiny() -> Language:
    return load_language("anbn_tiny")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokens: the end, x, b, a, y; the model knows two more than the language."""
    return save(tmp_path_factory.mktemp("models") / "gpt2", gpt2(5), characters("xbay"))


IDS = {"a": 3, "b": 2, "<eos>": 0}
OUTPUTS = [IDS["a"], IDS["b"], IDS["<eos>"]]


def law_by_hand(network: Any, prefix: str) -> torch.Tensor:
    """One prefix alone, [5] probabilities over all tokens."""
    ids = torch.tensor([[0, *(IDS[symbol] for symbol in prefix)]])
    with torch.no_grad():
        return network(input_ids=ids).logits[0, -1].double().softmax(-1)


def loaded(folder: Path, language: Language) -> HuggingFaceModel:
    model = from_folder(folder, language).model
    assert isinstance(model, HuggingFaceModel)
    return model


def test_laws_are_those_of_the_network_read_by_hand(folder: Path, tiny: Language) -> None:
    network, model = gpt2(5), loaded(folder, tiny)
    strings = ["", "ab", "ba", "aabbb", "abab"]
    tokens, _ = tiny.vocabulary.encode(strings)
    law, whole = model.next_log_probs(tokens)[0].exp(), model.all_log_probs(tokens)[0].exp()
    for i, string in enumerate(strings):
        for t in range(len(string) + 1):
            expected = law_by_hand(network, string[:t])
            own = expected[OUTPUTS]
            torch.testing.assert_close(whole[i, t, :-1], own, atol=1e-6, rtol=0)
            torch.testing.assert_close(whole[i, t, -1], expected[[1, 4]].sum(), atol=1e-6, rtol=0)
            torch.testing.assert_close(law[i, t], own / own.sum(), atol=1e-6, rtol=0)
    assert check_model(tiny, model, "theirs") == 1


def test_the_certificate_counts_what_is_spent_on_other_tokens(folder: Path, tiny: Language) -> None:
    network, support = gpt2(5), tiny.support()
    assert support is not None
    kl, outside = 0.0, 0.0
    for row, log_prob in zip(support.rows, support.log_probs.tolist(), strict=True):
        string = "".join(tiny.symbols[i] for i in row)
        laws = [law_by_hand(network, string[:t]) for t in range(len(string) + 1)]
        said = sum(math.log(float(law[IDS[symbol]])) for law, symbol in zip(laws, [*string, "<eos>"], strict=True))
        kl += math.exp(log_prob) * (log_prob - said)
        outside += math.exp(log_prob) * sum(float(law[1] + law[4]) for law in laws) / len(laws)
    found = evaluate(tiny, from_folder(folder, tiny), settings=["prompt_length=2", "max_new_tokens=4", "samples=4"])
    row = found.certificates.iloc[0]
    assert row["kl"] == pytest.approx(kl, abs=1e-4)
    assert row["exact"]
    assert not row["saturated"]
    spent = found.measurements[found.measurements["measure"] == "mass_outside"].iloc[0]
    assert spent["lower"] <= outside <= spent["upper"]
    assert spent["count"] == 2000


def test_without_other_tokens_nothing_is_spent_outside(tmp_path: Path, tiny: Language) -> None:
    model = loaded(save(tmp_path / "exact", gpt2(3), characters("ab")), tiny)
    assert mass_outside(tiny, model, 20)[0][0] == 0.0


def test_nothing_is_asked_of_the_network(folder: Path, tiny: Language, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    loaded(folder, tiny)


def test_large_batches_are_read_in_parts(folder: Path, tiny: Language, monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded(folder, tiny)
    tokens, _ = tiny.vocabulary.encode(["ab", "aabb", "b", ""] * 3)
    together = model.next_log_probs(tokens)
    monkeypatch.setattr("lmtest.adapters.hugging_face.LOGITS", 1)
    torch.testing.assert_close(model.next_log_probs(tokens), together, atol=1e-6, rtol=0)


def test_a_short_context_is_refused_with_numbers(tmp_path: Path, tiny: Language) -> None:
    short = save(tmp_path / "short", gpt2(3, positions=20), characters("ab"))
    given = from_folder(short, tiny)
    with pytest.raises(
        UsageError, match=r"of up to 72 symbols do not fit a context of 20 tokens .*--set max_new_tokens"
    ):
        evaluate(tiny, given)
    with pytest.raises(UsageError, match="of up to 20 symbols do not fit a context of 20 tokens"):
        given.model.next_log_probs(tiny.vocabulary.pack([(0,) * 20])[0])


def test_an_encoder_is_not_causal(tmp_path: Path, tiny: Language) -> None:
    from transformers import BertConfig, BertLMHeadModel

    config = BertConfig(
        vocab_size=3, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, eos_token_id=0
    )
    network = BertLMHeadModel(config)
    with torch.no_grad():
        for i, value in enumerate(network.parameters()):
            value.normal_(0.0, 0.5, generator=torch.Generator().manual_seed(i))
    given = from_folder(save(tmp_path / "bert", network, characters("ab")), tiny)
    with pytest.raises(UsageError, match="it is not causal"):
        check_model(tiny, given.model, "bert")


def test_weights_that_may_run_code_are_refused(tmp_path: Path, tiny: Language) -> None:
    made = save(tmp_path / "made", gpt2(3), characters("ab"))
    (made / "model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"expected weights in model.safetensors, found none"):
        from_folder(made, tiny)
    (made / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(UsageError, match=r"found pytorch_model.bin, which may run code .*save_pretrained\(FOLDER\)"):
        from_folder(made, tiny)


def test_no_folder_of_a_model_is_refused(tmp_path: Path, tiny: Language) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UsageError, match=r"no config.json\): save one with save_pretrained; nothing is downloaded"):
            from_folder(path, tiny)


def test_missing_weights_are_not_made_up(tmp_path: Path, tiny: Language) -> None:
    made = save(tmp_path / "made", gpt2(3), characters("ab"))
    weights = load_file(made / "model.safetensors")
    del weights["transformer.h.1.mlp.c_fc.weight"]
    save_file(weights, made / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        UsageError, match=r"lacks weights of its model \(.*h.1.mlp.c_fc.weight\), which would be random"
    ):
        from_folder(made, tiny)


def _config(**more: Any) -> Callable[[Path], None]:
    return _json("config.json", **more)


def _json(name: str, **more: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        told = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(told | more))

    return damage


def _weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    return damage


def _elsewhere(folder: Path) -> None:
    """An index that leads to a pickle, and one that leads out of the folder."""
    (folder / "model.safetensors").rename(folder.parent / "out.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"x": "../out.safetensors"}, "metadata": {}})
    )


CODE = {"model_type": "of_their_own", "auto_map": {"AutoModelForCausalLM": "theirs.Model"}}
PANIC = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
NORM = "transformer.ln_f.weight"

DAMAGED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "config": (lambda f: (f / "config.json").write_text("{"), "config.json is damaged"),
    "weights": (lambda f: (f / "model.safetensors").write_bytes(b"abc"), "model.safetensors is damaged"),
    "tokenizer": (lambda f: (f / "tokenizer.json").write_text('{"model": 3}'), "cannot load .*made as a Hugging Face"),
    "panic": (_json("tokenizer.json", normalizer=PANIC), "cannot load .*PanicException"),
    "code": (_config(**CODE), r"expected a model_type that .*code of its own \(auto_map\), which is not run"),
    "no causal model": (_config(model_type="vit"), "expected a causal language model, found vit"),
    "layers": (_config(n_layer=10**6), "expected weights of 1000000 layers, found 28 tensors"),
    "quantised": (_config(quantization_config={"bits": 4}), "expected plain weights, found quantised ones"),
    "start": (_config(bos_token_id=-1), "token -1 of the tokenizer is none of the model's 3"),
    "elsewhere": (_elsewhere, r"expected names of \*.safetensors files of the folder, found '../out.safetensors'"),
    "tokenizer elsewhere": (
        lambda f: (
            shutil.copy(f / "tokenizer.json", f.parent / "tokenizer.4.0.0.json"),
            _json("tokenizer_config.json", fast_tokenizer_files=["../tokenizer.4.0.0.json"])(f),
        ),
        "expected 'fast_tokenizer_files' to name files of the folder",
    ),
    "class": (_json("tokenizer_config.json", tokenizer_class="RagTokenizer"), "expected a token that ends|cannot load"),
    "shape": (_config(n_positions=32), r"expects transformer.wpe.weight of shape \(32, 16\), found \(64, 16\)"),
    "complex": (_weights(lambda w: w.update({NORM: w[NORM].to(torch.complex64)})), f"found {NORM} of torch.complex64"),
    "eight bits": (
        _weights(lambda w: w.update({NORM: w[NORM].to(torch.float8_e4m3fn)})),
        f"found {NORM} of torch.float8",
    ),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_folder_is_one_line(
    tmp_path: Path, tiny: Language, damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    made = save(tmp_path / "made", gpt2(3), characters("ab"))
    (made / "theirs.py").write_text("raise SystemExit('their code has run')\n")
    change, message = DAMAGED[damage]
    change(made)
    capfd.readouterr()
    with pytest.raises(UsageError, match=message) as caught:
        from_folder(made, tiny)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_pickle_that_the_configuration_names_is_not_read(tmp_path: Path, tiny: Language) -> None:
    made = save(tmp_path / "made", gpt2(3), characters("ab"))
    before = from_folder(made, tiny).model.next_log_probs(tiny.vocabulary.pack([(0, 1)])[0])
    torch.save({key: torch.zeros(()) for key in load_file(made / "model.safetensors")}, made / "adapter_model.bin")
    _config(transformers_weights="adapter_model.bin")(made)
    torch.testing.assert_close(from_folder(made, tiny).model.next_log_probs(tiny.vocabulary.pack([(0, 1)])[0]), before)


def test_names_of_files_that_were_once_there_do_no_harm(tmp_path: Path, tiny: Language) -> None:
    made = save(tmp_path / "made", gpt2(3), characters("ab"))
    _json("tokenizer_config.json", tokenizer_file="/nowhere/tokenizer.json", special_tokens_map_file="../x.json")(made)
    assert from_folder(made, tiny).model.next_log_probs(tiny.vocabulary.pack([(0, 1)])[0]).isfinite().all()


def test_weights_that_are_not_used_are_said(tmp_path: Path, tiny: Language) -> None:
    made = save(tmp_path / "made", gpt2(3), characters("ab"))
    assert "does not use" not in from_folder(made, tiny).note
    _config(n_layer=1)(made)
    note = from_folder(made, tiny).note
    assert re.search(r"does not use weights of the file \(transformer.h.1.attn.c_attn.weight and 10 more\)", note)


def test_a_model_that_fails_is_one_line(tmp_path: Path, tiny: Language) -> None:
    made = save(tmp_path / "made", gpt2(3), characters("ab"))
    _config(n_head=-1)(made)
    with pytest.raises(LmtestError, match=r"made failed on tokens of shape .*RuntimeError: invalid shape"):
        from_folder(made, tiny).model.next_log_probs(tiny.vocabulary.pack([(0, 1)])[0])


def test_without_transformers_the_extra_is_named(
    tmp_path: Path, tiny: Language, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(UsageError, match=r"pip install 'lmtest\[hf\]'"):
        from_folder(tmp_path, tiny)
