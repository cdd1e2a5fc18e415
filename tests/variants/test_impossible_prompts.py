"""Prompts for function certificates where no evaluator has any: none of them begins a string of the language."""

from explicit_language import explicit_anbn

from lmtest.languages import load_language
from lmtest.variants.preserve.certificate import impossible_prompts


def test_no_string_begins_with_an_impossible_prompt() -> None:
    language = explicit_anbn(3)
    prompts = impossible_prompts(language, 20)
    assert 0 < len(prompts) <= 20
    beginnings = {row[:t] for row in language.support().rows for t in range(len(row) + 1)}
    assert not beginnings.intersection(prompts)
    assert max(map(len, prompts)) <= 6
    assert prompts == impossible_prompts(language, 20)


def test_where_every_short_prompt_is_possible_there_are_none() -> None:
    assert impossible_prompts(load_language("liu_pcfg_like"), 8) == []
