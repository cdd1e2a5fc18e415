"""A Hugging Face causal model from a local folder, with its own tokenizer: nothing is fetched, and weights are safetensors."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmtest.adapters.given import Given, describe_failure
from lmtest.adapters.symbols import TokenMap, map_symbols
from lmtest.errors import UsageError
from lmtest.languages.base import Language
from lmtest.languages.vocabulary import Vocabulary
from lmtest.validation import read_json

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
        with torch.no_grad():
            for chunk in ids.to(network.device).split(rows):
                out = network(input_ids=chunk, attention_mask=torch.ones_like(chunk), use_cache=False)
                law = out.logits.double().log_softmax(-1).cpu()
                outside = law.index_fill(-1, own, -math.inf).logsumexp(-1, keepdim=True)
                parts.append(torch.cat([law[..., own], outside], -1))
        return torch.cat(parts)[None]

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
    of its own, a tokenizer that does not read the language's strings symbol by symbol.
    """
    transformers = require_transformers()
    name = folder.name or str(folder)
    _check_folder(folder)
    options = {"local_files_only": True, "trust_remote_code": False}
    with quiet(transformers):
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
            network, loading = transformers.AutoModelForCausalLM.from_pretrained(
                folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **options
            )
        except Exception as error:
            raise UsageError(
                f"cannot load {folder} as a Hugging Face causal model with its tokenizer: {describe_failure(error)}"
            ) from error
        lacking = sorted([*loading["missing_keys"], *(str(key) for key in loading.get("mismatched_keys", ()))])
        if lacking:
            raise UsageError(
                f"{folder} lacks weights of its model ({lacking[0]}{f' and {len(lacking) - 1} more' * (len(lacking) > 1)}), "
                "which would be random: save the whole model with save_pretrained"
            )
        config = network.config.get_text_config()
        eos, bos = (
            token if token is not None else _single(getattr(config, key, None))
            for token, key in ((tokenizer.eos_token_id, "eos_token_id"), (tokenizer.bos_token_id, "bos_token_id"))
        )
        tokens = map_symbols(language, tokenizer, eos, bos, int(config.vocab_size), str(folder))
    places = getattr(config, "max_position_embeddings", None)
    context = places if isinstance(places, int) and places > 0 else None
    model = HuggingFaceModel(network.eval().to(device), tokens, language.vocabulary, context, str(folder))
    example = tokens.writing.text(language.symbols[:2])
    note = f"strings are written like {example!r}; what the model gives to tokens of no symbol counts as loss"
    return Given(name, model, model.check, note)


def require_transformers() -> Any:
    """The package transformers; UsageError that names the extra where it is missing."""
    try:
        import transformers
    except ImportError:
        raise UsageError(
            "Hugging Face models need the package transformers: pip install 'lmtest[hf]' (the quotes are part of it)"
        ) from None
    return transformers


def _check_folder(folder: Path) -> None:
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if "config.json" not in names:
        raise UsageError(
            f"{folder} is no local folder of a Hugging Face model (no config.json): save one with save_pretrained; "
            "nothing is downloaded"
        )
    for name in names:  # an index may send the library to other files, of other kinds, elsewhere
        if name.endswith(".index.json"):
            index = read_json(folder / name)
            targets = index.get("weight_map") if isinstance(index, dict) else None
            listed = list(targets.values()) if isinstance(targets, dict) else [targets]
            wrong = [t for t in listed if t not in names or not str(t).endswith(".safetensors")]
            if wrong:
                raise UsageError(
                    f"{folder / name}: expected names of *.safetensors files of the folder, found {wrong[0]!r}"
                )
    if not any(name.endswith(".safetensors") for name in names):
        other = next((name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt"))), None)
        found = f"found {other}, which may run code when it is read" if other else "found none"
        raise UsageError(
            f"{folder}: expected weights as *.safetensors, {found}; on a machine that trusts it, load the model and "
            "save_pretrained(FOLDER), which writes safetensors"
        )


def _single(token: Any) -> int | None:
    """A configuration may list several ends: the first."""
    return token[0] if isinstance(token, list) and token else token if isinstance(token, int) else None


@contextlib.contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """Without the library's progress bars and hints, which are none of this command's output."""
    logging = transformers.utils.logging
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
