"""What the report reads of resolved.json and env.json, as tables to check them by: both may be damaged, or of another version."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class _Part(BaseModel):
    """A table of which some keys are read; the others may be anything."""

    model_config = ConfigDict(extra="allow", strict=True)


class _Entropy(_Part):
    value: float
    half_width: float
    exact: bool


class _Model(_Part):
    parameters: int
    training: dict[str, Any] = {}


class _PromptSet(_Part):
    count: int
    mass: float


class _Language(_Part):
    name: str
    title: str
    source: str
    symbols: list[str]
    rules: dict[str, str]
    entropy: _Entropy
    mean_length: float = Field(ge=0)
    epsilon: float
    models: dict[str, _Model]
    prompt_sets: dict[str, _PromptSet]


class _Claim(_Part):
    id: str
    kind: str = ""
    measure: str | None = None
    language: str | None = None
    margin: float | None = None


class _Contexts(_Part):
    k: int | None = None
    examples: list[int] | None = None
    anywhere: bool = False
    length: int | None = None
    below: float | None = None


class _Derivation(_Contexts):
    kind: str
    of: str | None = None
    contexts: _Contexts | None = None
    penalty: float | None = None
    lesson: str | None = None
    sigma: float | None = None
    share: float | None = None
    ratio: float | None = None
    alpha: float | None = None
    reads: str | None = None


class _Rules(_Part):
    temperature: float = 1.0


class _InContext(_Part):
    bins: int = Field(10, ge=1)


class _FineTuning(_Part):
    threshold: float | None = None
    accuracy_threshold: float | None = None


class _Evaluators(_Part):
    rule_extrapolation: _Rules | None = None
    in_context: _InContext | None = None
    fine_tuning: _FineTuning | None = None


class _Saturation(_Part):
    epsilon: float = 0.0
    per: str = "string"


class _Config(_Part):
    claims: list[_Claim] = []
    derived: dict[str, _Derivation] = {}
    evaluators: _Evaluators = _Evaluators()
    saturation: _Saturation = _Saturation()


class _Published(_Part):
    label: str
    variant: str
    measure: str
    prompt_set: str
    value: float | None
    language: str | None = None
    model: str | None = None
    decoding: str = "greedy"
    spread: float | None = None
    seeds: int | None = None
    source: str = ""
    note: str = ""


class Resolved(_Part):
    """resolved.json"""

    schema_version: int
    name: str
    title: str
    config: _Config
    languages: dict[str, _Language] = Field(min_length=1)
    published: list[_Published]


class Environment(_Part):
    """env.json"""

    seconds: float | None = Field(None, ge=0, allow_inf_nan=False)
    started: str | None = None
    device: str | None = None
    processor: str | None = None
