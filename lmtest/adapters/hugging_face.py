"""A Hugging Face causal model from a local folder, with its own tokenizer: nothing is fetched, and weights are safetensors."""

from __future__ import annotations

import contextlib
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmtest import limits
from lmtest.adapters.given import PASSED_ON, Given, describe_failure
from lmtest.adapters.hugging_face_folder import read_config, read_weights
from lmtest.adapters.symbols import TokenMap, map_symbols
from lmtest.errors import LmtestError, UsageError
from lmtest.languages.base import Language
from lmtest.languages.vocabulary import Vocabulary

CONTEXTS = ("max_position_embeddings", "max_target_positions", "max_seq_len")
"""What configurations call the number of positions."""
LOGITS = 2**23
"""Logits that are computed at once: a large vocabulary over many strings would not fit the memory."""


class HuggingFaceModel:
    """A causal model over a larger vocabulary, as a model of the language's symbols and EOS; one seed.

    `next_log_probs` are renormalised over the language's outputs; `whole` keeps what is given to other tokens as one more.
    """

    def __init__(self, network: Any, tokens: TokenMap, vocabulary: Vocabulary, context: int | None, name: str) -> None:
        self.network, self.tokens, self.vocabulary = network, tokens, vocabulary
        self.context, self.name = context, name
        # The language's ids are 0 … V − 1, then BOS and PAD; what stands behind a string is never looked at.
        self.inputs = torch.tensor([*tokens.symbols, tokens.eos, tokens.bos, tokens.eos])

    @property
    def whole(self) -> Whole:
        return Whole(self)

    def next_log_probs(self, tokens: Tensor) -> Tensor:
        """Tokens [N, T], BOS first → [1, N, T, V] float64, nats."""
        return self.all_log_probs(tokens)[..., :-1].log_softmax(-1)

    def all_log_probs(self, tokens: Tensor) -> Tensor:
        """Tokens [N, T], BOS first → [1, N, T, V + 1] float64, nats: the last outcome is every token of no symbol.

        UsageError where they do not fit the model's context.
        """
        self.check(tokens.shape[1] - 1)
        network, own = self.network, torch.tensor([*self.tokens.symbols, self.tokens.eos])
        ids = self.inputs[tokens]
        rows = max(1, LOGITS // (ids.shape[1] * int(network.config.get_text_config().vocab_size)))
        parts = []
        with torch.no_grad(), quiet(require_transformers()):
            for chunk in ids.to(network.device).split(rows):
                law = self._logits(chunk).double().log_softmax(-1).cpu()
                outside = law.index_fill(-1, own, -math.inf).logsumexp(-1, keepdim=True)
                parts.append(torch.cat([law[..., own], outside], -1))
        return torch.cat(parts)[None]

    def _logits(self, ids: Tensor) -> Tensor:
        try:
            out = self.network(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, return_dict=True)
            logits: Tensor = out.logits
        except (*PASSED_ON, MemoryError):
            raise
        except BaseException as error:
            shape = tuple(ids.shape)
            raise LmtestError(f"{self.name} failed on tokens of shape {shape}: {describe_failure(error)}") from error
        return logits

    def check(self, longest: float) -> None:
        """Raises UsageError where strings of so many symbols do not fit; of any length are only found out when read."""
        if self.context is not None and math.isfinite(longest) and longest + 1 > self.context:
            raise UsageError(
                f"{self.name}: strings (and prompts with their completions) of up to {longest:.0f} symbols do not fit a "
                f"context of {self.context} tokens (the start included); shorten completions (--set max_new_tokens=…), set "
                "max_length in the language file, or give a model with a longer context"
            )


class Whole:
    """A model with one outcome more than the language: what it gives to tokens that are no symbol. For certificates."""

    def __init__(self, model: HuggingFaceModel) -> None:
        self.model = model

    def next_log_probs(self, tokens: Tensor) -> Tensor:
        """Tokens [N, T], BOS first → [1, N, T, V + 1] float64, nats."""
        return self.model.all_log_probs(tokens)


def from_folder(folder: Path, language: Language, device: str = "cpu") -> Given:
    """A folder as save_pretrained leaves it → the model, in single precision.

    Raises UsageError: no transformers installed, no configuration, weights in other files than safetensors, missing weights, code
    of its own, a tokenizer that does not read the language's strings symbol by symbol, more time than allowed.
    """
    transformers = require_transformers()
    try:
        with limits.within(f"reading {folder}"), quiet(transformers), _no_panics():
            return _from_folder(folder, language, device, transformers)
    except (*PASSED_ON, MemoryError):
        raise
    except BaseException as error:  # tokenizers panic, which is no Exception
        raise UsageError(
            f"cannot load {folder} as a Hugging Face causal model with its tokenizer: {describe_failure(error)}"
        ) from error


def _from_folder(folder: Path, language: Language, device: str, transformers: Any) -> Given:
    config = read_config(folder, transformers)
    weights = read_weights(folder)
    classes = transformers.AutoModelForCausalLM._model_mapping
    if type(config) not in classes:
        raise UsageError(f"{folder}: expected a causal language model, found {config.model_type}, which is none")
    inner = config.get_text_config()
    layers = getattr(inner, "num_hidden_layers", 0)
    if isinstance(layers, int) and layers > len(weights):
        raise UsageError(
            f"{folder}: expected weights of {layers} layers, found {len(weights)} tensors: they do not fit"
        )
    made = classes[type(config)]
    network, loading = made.from_pretrained(
        None,
        config=config,
        state_dict=weights,
        dtype=torch.float32,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # or the library raises without the name of a tensor
    )
    for key, found, expected in sorted(loading["mismatched_keys"]):
        raise UsageError(
            f"{folder}: its configuration expects {key} of shape {tuple(expected)}, found {tuple(found)}: they do not belong "
            "together; save the whole model with save_pretrained"
        )
    if lacking := sorted(loading["missing_keys"]):
        raise UsageError(
            f"{folder} lacks weights of its model ({lacking[0]}{_more(lacking)}), which would be random: save the whole model "
            "with save_pretrained"
        )
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    eos, bos = (
        token if isinstance(token := getattr(tokenizer, key, None), int) else _single(getattr(inner, key, None))
        for key in ("eos_token_id", "bos_token_id")
    )
    tokens = map_symbols(language, tokenizer, eos, bos, int(inner.vocab_size), str(folder))
    places = [getattr(inner, key, None) for key in CONTEXTS]
    context = next((n for n in places if isinstance(n, int) and n > 0), None)
    model = HuggingFaceModel(network.eval().to(device), tokens, language.vocabulary, context, str(folder))
    example = tokens.writing.text(language.symbols[:2])
    note = f"strings are written like {example!r}; what the model gives to tokens of no symbol counts as loss"
    if unused := sorted(loading["unexpected_keys"]):
        note += f"; its configuration does not use weights of the file ({unused[0]}{_more(unused)})"
    return Given(folder.name or str(folder), model, model.check, note)


def _more(names: Sequence[str]) -> str:
    return f" and {len(names) - 1} more" * (len(names) > 1)


def require_transformers() -> Any:
    """The package transformers; UsageError that names the extra where it is missing."""
    try:
        import transformers
    except ImportError:
        raise UsageError(
            "Hugging Face models need the package transformers: pip install 'lmtest[hf]' (the quotes are part of it)"
        ) from None
    return transformers


def _single(token: Any) -> int | None:
    """A configuration may list several ends: the first."""
    return token[0] if isinstance(token, list) and token else token if isinstance(token, int) else None


@contextlib.contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """Without the library's progress bars, hints and warnings, which are none of this command's output."""
    logging = transformers.utils.logging
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


@contextlib.contextmanager
def _no_panics() -> Iterator[None]:
    """Without the lines that a panic of the tokenizer, which is written in Rust, leaves on the process's own stderr."""
    try:
        kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    except OSError:  # stderr is closed
        yield
        return
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
