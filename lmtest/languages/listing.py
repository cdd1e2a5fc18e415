"""All strings of a finite language from its law alone, one symbol longer at a time."""

from __future__ import annotations

import torch

from lmtest.languages.base import SUPPORT_LIMIT, Language, Row, Support


def list_by_length(language: Language) -> Support | None:
    """All strings with their log-probabilities; None as soon as there must be more than SUPPORT_LIMIT."""
    vocabulary = language.vocabulary
    found: list[Row] = []
    log_probs: list[float] = []
    live: list[Row] = [()]
    while live:
        joint = language.joint_next(vocabulary.pack(live)[0])[:, -1]
        whole = (joint[:, vocabulary.eos] > -torch.inf).nonzero().flatten().tolist()
        found += [live[i] for i in whole]
        log_probs += joint[whole, vocabulary.eos].tolist()
        live = [(*live[i], v) for i, v in (joint[:, : vocabulary.eos] > -torch.inf).nonzero().tolist()]
        if len(found) + len(live) > SUPPORT_LIMIT:  # every live prefix begins one string more, at least
            return None
    return Support(found, torch.tensor(log_probs, dtype=torch.float64))
