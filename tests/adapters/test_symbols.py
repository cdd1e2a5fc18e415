"""Symbols as tokens: one each wherever it stands, with or without spaces, or a refusal that shows why."""

from typing import Any

import pytest
from strangers import END, characters, merging
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lmtest.adapters.symbols import Writing, map_symbols
from lmtest.errors import UsageError
from lmtest.languages import Language, load_language


def spaced(*words: str) -> Any:
    """A tokenizer whose words have their space in front, as those of GPT-2 do."""
    vocabulary = {END: 0, **{word: i for i, word in enumerate(words, 1)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=END))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, unk_token=END)


def mapped(language: Language, tokenizer: Any, size: int = 100, bos: int | None = None) -> Any:
    return map_symbols(language, tokenizer, tokenizer.eos_token_id, bos, size, "theirs")


def test_characters_are_written_together(anbn_small: Language) -> None:
    found = mapped(anbn_small, characters("xba"))
    assert (found.symbols, found.eos, found.bos) == ((3, 2), 0, 0)
    assert found.writing == Writing("", "")


def test_words_are_written_with_spaces(anbn_small: Language) -> None:
    words = ("xx", "b", "a")
    assert mapped(anbn_small, characters(words, words=True)).writing == Writing("", " ")
    english = load_language("english_small")
    found = mapped(english, characters(english.symbols[::-1], words=True))
    assert found.symbols == tuple(range(len(english.symbols), 0, -1))


def test_words_with_their_space_in_front_are_found(anbn_small: Language) -> None:
    found = mapped(anbn_small, spaced("a", "b", "Ġa", "Ġb"))
    assert found.writing == Writing(" ", " ")
    assert found.symbols == (3, 4)


def test_a_start_of_its_own_is_used(anbn_small: Language) -> None:
    tokenizer = characters("<ab")
    assert mapped(anbn_small, tokenizer, bos=1).bos == 1


def test_merges_are_refused_with_the_string(anbn_small: Language) -> None:
    message = r"does not read anbn_small symbol by symbol: 'aa' is read as \['aa'\]; .*WordLevel, or of characters"
    with pytest.raises(UsageError, match=message):
        mapped(anbn_small, merging())


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (characters("ax"), "the symbol 'b', written 'b', is unknown to it"),
        (spaced("a", "bb"), "the symbol 'b', written 'b', is unknown to it"),
    ],
)
def test_a_missing_symbol_is_named(anbn_small: Language, tokenizer: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        mapped(anbn_small, tokenizer)


def test_a_symbol_of_several_tokens_is_named() -> None:
    english = load_language("english_small")
    with pytest.raises(UsageError, match=rf"the symbol {english.symbols[0]!r}, written .* is \d+ tokens"):
        mapped(english, characters(sorted({*"".join(english.symbols)})))


def test_a_symbol_that_is_the_end_is_refused(anbn_small: Language) -> None:
    tokenizer = characters("ab")
    with pytest.raises(UsageError, match="the symbol 'b', written 'b', is the same token as 'the end of a string'"):
        map_symbols(anbn_small, tokenizer, 2, None, 100, "theirs")


def test_two_symbols_in_one_token_are_refused(anbn_small: Language) -> None:
    class Deaf:
        unk_token_id = None

        def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
            return {"input_ids": [7] * len(text.replace(" ", ""))}

    with pytest.raises(UsageError, match="the symbol 'b', written 'b', is the same token as 'a'"):
        map_symbols(anbn_small, Deaf(), 0, None, 100, "theirs")


def test_neither_end_nor_start_is_refused(anbn_small: Language) -> None:
    with pytest.raises(UsageError, match="the tokenizer has neither: set eos_token"):
        map_symbols(anbn_small, characters("ab"), None, None, 100, "theirs")


def test_tokens_beyond_the_model_are_refused(anbn_small: Language) -> None:
    with pytest.raises(UsageError, match=r"token 2 of the tokenizer is none of the model's 2: they do not belong"):
        mapped(anbn_small, characters("ab"), size=2)
