"""All architectures by name: what a study's `[models.NAME]` table may declare."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lmtest.models.gated_linear_attention import GlaConfig
from lmtest.models.linear import LinearConfig
from lmtest.models.lstm import LstmConfig
from lmtest.models.mamba import MambaConfig
from lmtest.models.transformer import TransformerConfig
from lmtest.models.xlstm import XlstmConfig
from lmtest.validation import Table

ModelConfig = Annotated[
    TransformerConfig | LstmConfig | LinearConfig | MambaConfig | XlstmConfig | GlaConfig,
    Field(discriminator="architecture"),
]

ARCHITECTURES: dict[str, type[Table]] = {
    "transformer": TransformerConfig,
    "lstm": LstmConfig,
    "linear": LinearConfig,
    "mamba": MambaConfig,
    "xlstm": XlstmConfig,
    "gated_linear_attention": GlaConfig,
}
