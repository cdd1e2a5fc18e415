"""The contract on a small probe, before anything long: finite, normalised, repeatable, causal, the same in any batch."""

from __future__ import annotations

import torch
from torch import Tensor

from lmtest.errors import UsageError
from lmtest.languages.base import Language, Row
from lmtest.models.contract import LanguageModel
from lmtest.seeds import generator

STRINGS = 8
LONGEST = 24
"""Symbols of the probed prefixes."""
NORMALISED = 1e-3
"""|log Σ p| of a law: single precision over large vocabularies has no more."""
SAME = 1e-4
"""Probabilities that should be equal and are computed in another order, or in another batch."""


def check_model(language: Language, model: LanguageModel, name: str) -> int:
    """Checks the contract on prefixes of a few strings of the language; the number of seeds.

    Raises UsageError: NaN where the language goes on, laws that do not sum to 1, other laws when asked again (dropout that is
    still on), laws that change with later symbols (not causal), or with the rest of the batch.
    """
    drawn = [row[:LONGEST] for row in language.sample_ids(STRINGS, generator(0, "model check"))]
    rows = sorted(dict.fromkeys(drawn), key=len)
    tokens, lengths = language.vocabulary.pack(rows)
    counted = torch.arange(tokens.shape[1]) <= lengths[:, None]  # [N, T]
    law = model.next_log_probs(tokens)  # [S, N, T, V]
    _check_laws(language, law, rows, counted, name)

    def same(other: Tensor, where: Tensor, problem: str) -> None:
        """`other` agrees with `law` at the positions of bool [N, T]."""
        far = (law.exp().nan_to_num() - other.exp().nan_to_num()).abs().amax((0, -1)).where(where, 0.0)
        if float(far.max()) > SAME:
            row, place = divmod(int(far.argmax()), far.shape[1])
            raise UsageError(
                f"{name}: behind {_shown(language, rows[row][:place])} {problem} by {float(far.max()):.2g}"
            )

    again = model.next_log_probs(tokens)
    same(
        again,
        counted,
        "it gives another law when asked again: is dropout still on (model.eval())? Probabilities differ",
    )
    cut = lengths // 2
    columns = torch.arange(tokens.shape[1])
    later = (columns > cut[:, None]) & counted
    # With one symbol there is no other to put in: the string ends instead.
    other = (tokens + 1) % len(language.symbols) if len(language.symbols) > 1 else language.vocabulary.pad
    changed = model.next_log_probs(torch.where(later, other, tokens))
    same(changed, (columns <= cut[:, None]) & counted, "it is not causal: other symbols later on change probabilities")
    alone = torch.full_like(law, torch.nan)
    for i, row in enumerate(rows):
        alone[:, i : i + 1, : len(row) + 1] = model.next_log_probs(language.vocabulary.pack([row])[0])
    same(alone, counted, "its law depends on padding or on the other rows of the batch: alone, probabilities differ")
    return len(law)


def _check_laws(language: Language, law: Tensor, rows: list[Row], counted: Tensor, name: str) -> None:
    totals = law.logsumexp(-1).abs().amax(0).where(counted, 0.0)  # NaN stays
    for bad, problem in (
        (law.isnan().any(-1).any(0) & counted, "it gives no law (NaN), where the language goes on"),
        (
            ~(totals <= NORMALISED),
            "its probabilities do not sum to 1 (next_log_probs gives log-probabilities in nats: apply log_softmax to logits)",
        ),
    ):
        if bool(bad.any()):
            row, place = divmod(int(bad.int().argmax()), bad.shape[1])
            found = law[:, row, place].logsumexp(-1).exp().tolist()
            raise UsageError(f"{name}: behind {_shown(language, rows[row][:place])} {problem}; found a sum of {found}")


def _shown(language: Language, row: Row) -> str:
    return repr(language.vocabulary.text(language.vocabulary.join(row)))
