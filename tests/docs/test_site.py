"""The documentation's source: every page is reached, every link leads somewhere, every key of an evaluator has its line."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lmtest.evaluators.registry import EvaluatorsConfig
from lmtest.saturation import SaturationConfig

DOCS = Path(__file__).parents[2] / "docs"
CONFIG = yaml.safe_load((DOCS / "site" / "mkdocs.yml").read_text("utf-8"))
PAGES = sorted(DOCS.rglob("*.md"))
EVALUATORS = {
    name: next(part for part in field.annotation.__args__ if part is not type(None))
    for name, field in EvaluatorsConfig.model_fields.items()
} | {"saturation": SaturationConfig}


def leaves(nav: object) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [leaf for part in parts for leaf in leaves(part)]  # type: ignore[union-attr]


def test_every_page_is_in_the_navigation_and_exists() -> None:
    assert sorted(leaves(CONFIG["nav"])) == [str(page.relative_to(DOCS)) for page in PAGES]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        if not target.startswith(("http:", "https:")):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("name", EVALUATORS)
def test_every_key_of_an_evaluator_has_its_line_and_no_other_has(name: str) -> None:
    text = (DOCS / "evaluators" / f"{name}.md").read_text("utf-8")
    told = re.findall(r"^\| `(\w+)` \|", text, re.M)
    assert sorted(told) == sorted(EVALUATORS[name].model_fields)
    for part in ("**Question.**", "**Definition.**", "**Source.**", "**What it does not show.**"):
        assert part in text
    assert name == "saturation" or "**Chance.**" in text


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-f", str(DOCS / "site" / "mkdocs.yml")]
    done = subprocess.run(
        [*command, "-d", str(tmp_path / "site")], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    words = (tmp_path / "site" / "glossary" / "index.html").read_text("utf-8")
    assert "rule keeper" in words  # from the README
    assert (tmp_path / "site" / "evaluators" / "flatness" / "index.html").is_file()
