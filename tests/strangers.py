"""Hugging Face models as strangers have them: tiny, random, with a tokenizer of their own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

END = "<|endoftext|>"


def characters(symbols: Sequence[str], words: bool = False) -> Any:
    """A WordLevel tokenizer: the end is token 0, then the symbols; single characters, or words between white space."""
    vocabulary = {name: i for i, name in enumerate((END, *symbols))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=END))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit() if words else pre_tokenizers.Split("", "isolated")
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, unk_token=END)


def merging(first: str = "a", second: str = "b") -> Any:
    """A byte-pair tokenizer with one merge: two of the first symbol are one token."""
    vocabulary = {END: 0, first: 1, second: 2, first * 2: 3}
    tokenizer = Tokenizer(models.BPE(vocabulary, [(first, first)]))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, unk_token=END)


def gpt2(size: int, seed: int = 0, positions: int = 64, **more: Any) -> Any:
    """A random GPT-2 of two layers over `size` tokens, spread out enough to have opinions."""
    config = transformers.GPT2Config(
        vocab_size=size, n_embd=16, n_layer=2, n_head=2, n_positions=positions, bos_token_id=0, eos_token_id=0, **more
    )
    network = transformers.GPT2LMHeadModel(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in network.parameters():
            value.normal_(0.0, 0.5, generator=generator)
    return network.eval()


def save(folder: Path, network: Any, tokenizer: Any) -> Path:
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
