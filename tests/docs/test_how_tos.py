"""Every how-to is done as it stands: its files written, its changes made, its commands and Python run, its promises checked."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "how_to").glob("*.md"))
BLOCK = re.compile(r'^```(?P<kind>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<body>.*?)^```$', re.M | re.S)


class Block(NamedTuple):
    kind: str
    title: str | None
    body: str


def blocks(page: Path) -> list[Block]:
    return [Block(m["kind"], m["title"], m["body"]) for m in BLOCK.finditer(page.read_text("utf-8"))]


def changed(text: str, diff: str) -> str:
    """A text after a change that stands in it exactly once."""
    lines = diff.splitlines()
    before = "\n".join(line[1:] for line in lines if not line.startswith("+"))
    after = "\n".join(line[1:] for line in lines if not line.startswith("-"))
    assert text.count(before + "\n") == 1, before
    return text.replace(before + "\n", after + "\n")


def shell(command: str, folder: Path) -> str:
    """A command of a page, run by this Python; what it printed."""
    command = re.sub(r"\blmtest (?=[a-z])", f"{sys.executable} -m lmtest.cli ", command.strip(), count=1)
    command = command.replace("python -m pytest", f"{sys.executable} -m pytest -p no:cacheprovider")
    paths = [str(folder), str(ROOT)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "400", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_the_page_says_works(page: Path, tmp_path: Path) -> None:
    found = blocks(page)
    assert any(block.kind == "sh" for block in found)
    assert any(block.kind == "python" and block.title is None for block in found)
    if any(block.title and block.title.startswith("lmtest/") for block in found):
        for name in ("lmtest", "grammars"):
            shutil.copytree(ROOT / name, tmp_path / name)
    said = ""
    for block in found:
        if block.title is not None:
            path = tmp_path / block.title
            text = changed(path.read_text("utf-8"), block.body) if block.kind == "diff" else block.body
            path.write_text(text, "utf-8")
        elif block.kind == "sh":
            said = shell(block.body, tmp_path)
        elif block.kind == "text":
            for line in block.body.splitlines():
                assert line in said, said
        else:
            assert block.kind == "python"
            script = tmp_path / "block.py"
            script.write_text(block.body, "utf-8")
            shell(f"{sys.executable} {script.name}", tmp_path)


def test_there_is_a_page_for_all_that_can_be_added() -> None:
    assert {page.stem for page in PAGES} >= {"add_a_language", "add_a_model", "add_a_variant", "add_an_evaluator"}
