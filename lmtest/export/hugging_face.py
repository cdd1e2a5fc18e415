"""A transformer of ours as a Hugging Face folder: weights, configuration, tokenizer; compared with ours before it is written."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmtest import atomic
from lmtest.adapters.hugging_face import quiet, require_transformers
from lmtest.errors import LmtestError, UsageError
from lmtest.export.architectures import exported
from lmtest.languages.vocabulary import EOS_NAME, Vocabulary
from lmtest.models.contract import LanguageModel
from lmtest.models.transformer import Transformer
from lmtest.seeds import generator
from lmtest.variants.preserve.certificate import double

TOLERANCE = 1e-5
"""Between the logits of both, in double precision."""
STRINGS, LENGTH = 32, 32
"""Random strings that they are compared on, and how many symbols of each, at most."""

CARD = """\
# {title}

Written by `lmtest export hf`: one seed ({seed}) as {architecture}; its logits differ from the original's by {difference:.1e} at most.

- symbols: `{symbols}`, one token each; `{eos}` both starts and ends a string, and nothing is to be read behind the end
- the tokenizer puts `{eos}` in front (`add_special_tokens=False` leaves it out)
- at most {places} tokens

    lmtest evaluate --language LANGUAGE --evaluator rule_extrapolation --model FOLDER
"""


@dataclass(frozen=True)
class HuggingFaceExport:
    """Where it is, which architecture it has, and the largest difference of a logit from ours (both in double precision)."""

    folder: Path
    architecture: str
    difference: float


def export_hugging_face(
    model: LanguageModel, seed: int, folder: Path, title: str = "a model of lmtest"
) -> HuggingFaceExport:
    """Writes one seed of a transformer to a new folder, as save_pretrained does, whole or not at all.

    Raises UsageError where transformers is not installed, where the model is no transformer or has no exact equivalent, where it has
    no such seed, and where the folder is there; LmtestError where the logits differ by more than TOLERANCE.
    """
    transformers = require_transformers()
    if not isinstance(model, Transformer):
        raise UsageError(
            f"cannot export {type(model).__name__.lower()} models: no Hugging Face architecture has the same parameters; "
            "transformers can be exported"
        )
    if seed not in model.seeds:
        raise UsageError(f"the model has no seed {seed} (its seeds: {', '.join(map(str, model.seeds))})")
    if folder.exists():
        raise UsageError(f"{folder} exists: name a folder that does not, with --out")
    row = model.seeds.index(seed)
    ours = double(model)
    parameters = {name: value[row].detach().cpu() for name, value in ours.parameters.items()}
    made = exported(model.config, parameters, model.vocabulary)
    eos = model.vocabulary.eos
    config = getattr(transformers, made.config)(
        vocab_size=model.vocabulary.n_outputs,
        tie_word_embeddings=False,
        # A token to pad with would be one whose embedding is not trained on.
        **{"bos_token_id": eos, "eos_token_id": eos, "pad_token_id": None},
        **made.arguments,
    )
    network = transformers.AutoModelForCausalLM.from_config(config)
    network.load_state_dict({name: value.float() for name, value in made.weights.items()}, strict=True)
    difference = _difference(ours, row, network.double().eval())
    if not difference <= TOLERANCE:
        raise LmtestError(
            f"the export is not exact: logits differ by {difference:.2g}, expected at most {TOLERANCE}; nothing was written. This is "
            "an error of lmtest, or a change in the library's architecture: please report it with the model's configuration"
        )
    architecture = type(network).__name__
    places = int(config.max_position_embeddings)
    card = CARD.format(
        title=title,
        seed=seed,
        architecture=architecture,
        difference=difference,
        symbols=" ".join(model.vocabulary.symbols),
        eos=EOS_NAME,
        places=places,
    )
    with quiet(transformers):
        _write(folder, network.float(), tokenizer_of(model.vocabulary, places), card)
    return HuggingFaceExport(folder, architecture, difference)


def tokenizer_of(vocabulary: Vocabulary, places: int) -> Any:
    """A tokenizer with one token for each symbol (a character, or a word between white space), and EOS at both ends."""
    transformers = require_transformers()
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    # Without a token for what is unknown, an unknown symbol is an error, and not another symbol in silence.
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(vocabulary.outputs)}))
    if vocabulary.single_characters:
        tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
        tokenizer.decoder = decoders.Fuse()
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{EOS_NAME} $A", special_tokens=[(EOS_NAME, vocabulary.eos)]
    )
    ends = dict.fromkeys(("bos_token", "eos_token", "pad_token"), EOS_NAME)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=places, clean_up_tokenization_spaces=False, **ends
    )


def _difference(ours: Transformer, row: int, network: Any) -> float:
    """The largest difference of a logit on random strings, read in full."""
    vocabulary = ours.vocabulary
    rng = generator(0, "export")
    length = min(LENGTH, int(network.config.max_position_embeddings) - 1)
    strings = rng.integers(len(vocabulary.symbols), size=(STRINGS, length))
    tokens = torch.cat([torch.full((STRINGS, 1), vocabulary.bos), torch.from_numpy(strings)], 1)
    theirs: Tensor
    with torch.no_grad():
        expected = ours.logits(tokens.to(ours.device))[row].cpu()
        theirs = network(input_ids=tokens.where(tokens != vocabulary.bos, vocabulary.eos), use_cache=False).logits
    return float((theirs - expected).abs().max())


def _write(folder: Path, network: Any, tokenizer: Any, card: str) -> None:
    """Into a folder beside it that is renamed when it is whole."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        network.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        atomic.write_text(temporary / "README.md", card)
        os.replace(temporary, folder)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, FileNotFoundError | NotADirectoryError | PermissionError):
            raise UsageError(f"cannot write to {folder}: {error.strerror}; name another folder with --out") from None
        raise
