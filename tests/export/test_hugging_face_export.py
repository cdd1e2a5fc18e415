"""An exported transformer is the same function: logits equal to 1e-5, its tokenizer reads strings as ours does, or it is refused."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from lmtest.errors import LmtestError, UsageError
from lmtest.export import hugging_face
from lmtest.export.hugging_face import export_hugging_face, tokenizer_of
from lmtest.languages import load_language
from lmtest.languages.vocabulary import Vocabulary
from lmtest.models.lstm import LstmConfig
from lmtest.models.transformer import Transformer, TransformerConfig
from lmtest.validation import read_toml
from lmtest.variants.preserve.deepen import deepen
from lmtest.variants.preserve.grow import add_units
from lmtest.variants.preserve.widen import widen

FEW, MANY = Vocabulary(("a", "b")), Vocabulary(tuple(f"w{i}" for i in range(40)))


def build(vocabulary: Vocabulary = FEW, seeds: tuple[int, ...] = (0, 1), **options: Any) -> Transformer:
    """A transformer with generic values in every parameter, norms and biases included."""
    sizes = {"layers": 2, "width": 16, "heads": 2, "feed_forward": 24, "context": 40}
    model = TransformerConfig(**(sizes | options)).build(vocabulary, seeds)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in model.parameters.items():
            noise = torch.empty_like(value).normal_(0.0, 0.3, generator=generator)
            value.copy_(1 + noise if "norm" in name and name.endswith("weight") else value + noise)
    return model


SHIPPED = [
    (path, name)
    for path in sorted((Path(__file__).parents[2] / "runs").glob("*.toml"))
    for name, model in read_toml(path)["models"].items()
    if model["architecture"] == "transformer" and model["width"] <= 64
]


def logits_of(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    network = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    with torch.no_grad():
        return network(input_ids=ids).logits


EXACT = [
    *({"norm": n, "positions": p} for n, p in itertools.product(("pre", "post"), ("none", "sinusoidal", "learned"))),
    {"norm": "pre", "positions": "rotary"},
    {"norm": "pre", "positions": "rotary", "tied": True},
    {"norm": "post", "positions": "sinusoidal", "tied": True},
    {"norm": "pre", "positions": "rotary", "layer_norm_eps": 1e-3},
    {"norm": "post", "positions": "learned", "layer_norm_eps": 1e-2, "tied": True},
    {"norm": "pre", "positions": "sinusoidal", "layer_norm_eps": 1e-6},
    {"norm": "pre", "positions": "rotary", "heads": 3, "head_size": 4},
]


@pytest.mark.parametrize("options", EXACT, ids=lambda options: " ".join(map(str, options.values())))
def test_logits_are_ours_to_1e5(tmp_path: Path, options: dict[str, Any]) -> None:
    model = build(**options)
    done = export_hugging_face(model, 1, tmp_path / "made")
    assert done.difference < 1e-5
    strings = torch.randint(2, (16, 39), generator=torch.Generator().manual_seed(3))
    ours = model.logits(torch.cat([torch.full((16, 1), FEW.bos), strings], 1))[1]
    theirs = logits_of(tmp_path / "made", torch.cat([torch.full((16, 1), FEW.eos), strings], 1))
    assert theirs.shape == ours.shape  # no output more, so probabilities are equal as well
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("study", "name"), SHIPPED, ids=lambda value: getattr(value, "stem", value))
def test_transformers_of_the_shipped_studies_are_exported(tmp_path: Path, study: Path, name: str) -> None:
    table = read_toml(study)
    for language in [table.get("language"), *table.get("languages", [])]:
        if language is not None:
            options = table["models"][name] | {"dropout": 0.0}
            model = build(load_language(language).vocabulary, (0,), **options)
            assert export_hugging_face(model, 0, tmp_path / language).difference < 1e-5


def test_more_outputs_than_coordinates_are_exact_where_the_output_has_a_bias(tmp_path: Path) -> None:
    model = build(MANY, norm="pre", positions="rotary")
    assert export_hugging_face(model, 0, tmp_path / "made").difference < 1e-5
    with pytest.raises(
        UsageError, match=r"OPT's output has no bias, and this one's, of 41 outputs, is none of a width of 16"
    ):
        export_hugging_face(build(MANY, norm="pre", positions="learned"), 0, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("variant", [lambda m: add_units(m, 8), lambda m: deepen(m, 1), lambda m: widen(m, 2, 4)])
def test_variants_of_the_same_function_are_exported(tmp_path: Path, variant: Any) -> None:
    model = build(norm="pre", positions="sinusoidal")
    assert export_hugging_face(variant(model), 0, tmp_path / "made").difference < 1e-5


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (build(positions="alibi"), "cannot export alibi positions: .* MPT and BLOOM know no ReLU"),
        (build(positions="rotary", norm="post"), "cannot export rotary positions with post-norm"),
        (build(positions="rotary", norm="pre", head_size=8, tables={"head_copies": 2}), "on 2 blocks of a head"),
        (build(head_size=4), "2 heads of size 4 are 8 together, and OPT's are the width, 16"),
        (build(layer_norm_eps=0.0), "cannot export layer norms with eps 0: OPT's have 1e-05"),
        (
            LstmConfig(architecture="lstm", width=8).build(FEW, (0, 1)),
            "cannot export lstm models: .*transformers can be",
        ),
    ],
)
def test_what_no_architecture_computes_is_refused(tmp_path: Path, model: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        export_hugging_face(model, 0, tmp_path / "made")
    assert not list(tmp_path.iterdir())


def test_an_export_that_is_not_exact_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hugging_face, "TOLERANCE", 0.0)
    with pytest.raises(LmtestError, match="the export is not exact: logits differ by"):
        export_hugging_face(build(), 0, tmp_path / "made")
    assert not list(tmp_path.iterdir())


def test_folders_and_seeds_are_checked(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(UsageError, match="exists: name a folder that does not"):
        export_hugging_face(build(), 0, tmp_path / "taken")
    with pytest.raises(UsageError, match=r"no seed 7 \(its seeds: 0, 1\)"):
        export_hugging_face(build(), 7, tmp_path / "made")
    with pytest.raises(UsageError, match="cannot write to /proc/nope"):
        export_hugging_face(build(), 0, Path("/proc/nope"))


def test_the_tokenizer_reads_what_we_read(tmp_path: Path) -> None:
    for vocabulary in (load_language("dyck2").vocabulary, MANY):
        folder = tmp_path / str(vocabulary.n_outputs)
        tokenizer_of(vocabulary, 40).save_pretrained(folder)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        row = [1, 0, 1, 1, 0]
        text = vocabulary.text(vocabulary.join(row))
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == row
        assert tokenizer(text)["input_ids"] == [vocabulary.eos, *row]
        assert tokenizer(text + "<eos>", add_special_tokens=False)["input_ids"] == [*row, vocabulary.eos]
        assert tokenizer.decode(row) == text
        with pytest.raises(Exception, match="WordLevel error"):
            tokenizer("?")


def test_the_card_says_what_it_is(tmp_path: Path) -> None:
    export_hugging_face(build(), 1, tmp_path / "made", "transformer, normal")
    card = (tmp_path / "made" / "README.md").read_text()
    assert card.startswith("# transformer, normal\n")
    assert "one seed (1) as OPTForCausalLM" in card
    assert "symbols: `a b`" in card
    assert not list(tmp_path.glob(".*"))
