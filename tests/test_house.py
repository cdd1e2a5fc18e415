"""The laws of the house: floors import downwards, no global randomness, what is shipped loads."""

import ast
import re
from pathlib import Path

import pytest

from lmtest.cells import cells
from lmtest.claims import attainability
from lmtest.study import load_study

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lmtest"
FLOORS = [
    "languages",
    "models",
    "adapters",
    "training",
    "variants",
    "saturation",
    "evaluators",
    "export",
    "claims",
    "report",
]
GROUND = {"columns", "errors", "limits", "seeds", "atomic", "validation", "measurement"}
"""What every floor may use."""


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in found if name.startswith("lmtest.") and name.count(".")}


def floor_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_floor_imports_only_from_floors_below(path: Path) -> None:
    own = floor_of(path)
    if own not in FLOORS:
        return
    allowed = set(FLOORS[: FLOORS.index(own) + 1]) | GROUND
    known = (
        set(FLOORS) | {p.stem for p in PACKAGE.glob("*.py")} | {p.parent.name for p in PACKAGE.glob("*/__init__.py")}
    )
    assert imports(path) & known <= allowed


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_randomness_is_an_argument(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"np\.random\.(?!default_rng|Generator\b)", text)
    assert not re.search(r"torch\.manual_seed|^import random|from random import", text, re.M)
    assert "pickle" not in text.replace("No pickle", "")


@pytest.mark.parametrize("path", sorted((ROOT / "runs").glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_study_loads_and_its_claims_are_attainable(path: Path) -> None:
    # Parse labels of all its strings take long: of the first thousand there are enough.
    few = ["evaluators.fine_tuning.strings=1024"] if path.stem == "fine_tuning_paper" else []
    study, languages = load_study(path, few)
    assert len(cells(study, languages)) >= len(languages) * len(study.models) * len(study.variants)
    if study.claims:
        assert attainability(study.claims, len(study.seed_list))["attainable"].all()


def test_the_top_level_is_the_one_that_was_fixed() -> None:
    allowed = {"pyproject.toml", "grammars", "lmtest", "tests", "runs", "README.md"}
    allowed |= {"LICENSE", "CHANGELOG.md", "CITATION.cff", "docs"}
    import subprocess

    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    top = {line.split("/")[0] for line in listed.splitlines()}
    assert {name for name in top if not name.startswith(".")} <= allowed
