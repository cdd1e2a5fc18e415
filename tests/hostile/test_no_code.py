"""No file that is read runs code: watched by the interpreter's own audit events, in a process of its own."""

from __future__ import annotations

import ast
import json
import os
import pickle  # noqa: TID251 (to see that ours is not loaded)
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from strangers import characters, gpt2, save
from tiny import MAIN, ROOT, TINY

from lmtest.pipeline import run_study

WATCHED = """
import json, os, sys
from lmtest import cli
from lmtest.languages import load_language

quiet, found = True, []
FORBIDDEN = {"os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "pickle.find_class"}
FORBIDDEN |= {"socket.connect", "socket.getaddrinfo", "shutil.rmtree", "os.chmod"}

def watch(event, arguments):
    if quiet:
        return
    if event in FORBIDDEN or STRICT and event in ("open", "exec", "ctypes.dlopen", "marshal.loads"):
        found.append([event, repr(arguments)[:200]])

sys.addaudithook(watch)
"""

LANGUAGES = (
    WATCHED
    + """
STRICT = True
for warm in ("anbn", "dyck2", "ban_small", "brackets_nested_small", "ginc_shared", "layered_small"):
    load_language(warm).sample(2, seed=0)  # imports what each kind needs
for path in sys.argv[1:]:
    quiet = False
    try:
        language = load_language(path)
        language.sample(3, seed=0), language.next_symbol_law(""), language.entropy()
    except ValueError:
        pass
    quiet = True
    found = [(event, what) for event, what in found if not (event == "open" and what.startswith(f"({path!r}"))]
print(json.dumps(found))
"""
)

COMMANDS = (
    WATCHED
    + """
import matplotlib.font_manager  # which asks the system for its fonts, the first time
STRICT = False  # what is imported on the way is opened, and executed
for words in json.loads(sys.argv[1]):
    sys.argv = ["lmtest", *words]
    quiet = False
    code = cli._run()
    quiet = True
    print(words[:2], "exit code", code, file=sys.stderr)
print(json.dumps(found))
"""
)

EVIL = "__import__('os').system('touch hacked')"
FILES = {
    "title": f'title = "{EVIL}"\nkind = "pcfg"\ngrammar = "S -> \'a\' [1.0]"\n',
    "grammar": f'title = ""\nkind = "pcfg"\ngrammar = """\nS -> "{EVIL}" [0.5] | \'a\' [0.5]\n%include /etc/passwd\n"""\n',
    "symbols": f'title = ""\nkind = "pcfg"\ngrammar = """\nS -> "{EVIL}" S [0.5] | "{{7*7}}" [0.5]\n"""\n',
    "count": f'title = ""\nkind = "template"\ntemplate = "a^n"\nn = {{ law = "uniform", high = 3 }}\n'
    f'[rules]\nR = {{ count = "{EVIL} == a" }}\n',
    "regex": 'title = ""\nkind = "template"\ntemplate = "a^n"\nn = { law = "uniform", high = 3 }\n'
    '[rules]\nR = { regex = "(?{code})a" }\n',
    "path": 'title = ""\nkind = "pcfg"\ngrammar = "/etc/passwd"\nsource = "file:///etc/passwd"\n',
    "template": f'title = ""\nkind = "template"\ntemplate = "{{{{7*7}}}}^n {EVIL}"\nn = {{ law = "uniform", high = 3 }}\n',
}


def watched(script: str, *words: str, folder: Path) -> list[list[str]]:
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", script, *words], cwd=folder, capture_output=True, text=True, timeout=200, check=False,
        env=os.environ | {"PYTHONPATH": paths, "HOME": str(folder), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    events: list[list[str]] = json.loads(done.stdout.splitlines()[-1])
    return events


def test_a_language_file_runs_nothing_and_opens_nothing_else(tmp_path: Path) -> None:
    paths = []
    for name, text in FILES.items():
        paths.append(str(tmp_path / f"{name}.toml"))
        Path(paths[-1]).write_text(text, "utf-8")
    assert watched(LANGUAGES, *paths, folder=tmp_path) == []
    assert not (tmp_path / "hacked").exists()


def test_the_watch_sees_what_it_is_to_see(tmp_path: Path) -> None:
    """A test of the test: a loader that did read another file, run code or unpickle would be seen."""
    reading = LANGUAGES[LANGUAGES.index("        language = ") : LANGUAGES.index("    except")]
    faulty = "        open('/etc/hostname').close(), os.system('true'), exec('1')\n"
    script = LANGUAGES.replace(reading, faulty)
    seen = {event for event, _ in watched(script, "x", folder=tmp_path)}
    assert seen == {"open", "os.system", "exec"}


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return eval, ("open('hacked', 'w').close()",)


def test_no_pickle_is_ever_loaded(tmp_path: Path) -> None:
    """A pickle in the place of every file that a command reads: it is refused, and what it would do is not done."""
    run = run_study(MAIN, out=tmp_path / "run", overrides=(*TINY, "training.steps=2"), seeds="0-1", jobs=1).directory
    evil = pickle.dumps(Payload())
    commands = []
    checkpoint = next(run.rglob("*normal*.safetensors"))
    for number, victim in enumerate([checkpoint, run / "resolved.json", run / "env.json", *run.glob("[cmv]*.parquet")]):
        other = tmp_path / f"run{number}"
        shutil.copytree(run, other)
        (other / victim.relative_to(run)).write_bytes(evil)
        commands += [["claims", str(other)]]
        if victim != checkpoint:
            commands += [["compare", str(other), str(run)], ["report", str(other)]]
        if victim in (checkpoint, run / "resolved.json"):
            commands += [["evaluate", "--language", "anbn_small", "--model", str(other), "--variant", "normal"]]
    language = tmp_path / "mine.toml"
    language.write_bytes(evil)
    (tmp_path / "table.csv").write_bytes(evil)
    folder = save(tmp_path / "hf", gpt2(3), characters(["a", "b"]))
    weights = (folder / "model.safetensors").read_bytes()
    for name, files_of in {
        "bin": {"pytorch_model.bin": evil},  # and no safetensors
        "both": {"pytorch_model.bin": evil, "model.safetensors": weights},
        "disguised": {"model.safetensors": evil},
        "tokenizer": {"tokenizer.json": evil, "model.safetensors": weights},
    }.items():
        other = tmp_path / name
        shutil.copytree(folder, other)
        (other / "model.safetensors").unlink()
        for file, content in files_of.items():
            (other / file).write_bytes(content)
        commands += [["evaluate", "--language", "anbn_tiny", "--model", str(other), "--set", "max_new_tokens=4"]]
    commands += [["describe", str(language)], ["run", str(language)], ["audit", str(tmp_path / "table.csv")]]
    assert watched(COMMANDS, json.dumps(commands), folder=tmp_path) == []
    assert not (tmp_path / "hacked").exists()


LOADERS = {
    "torch.load",
    "np.load",
    "numpy.load",
    "pd.read_pickle",
    "joblib.load",
    "eval",
    "exec",
    "compile",
    "__import__",
}


@pytest.mark.parametrize("path", sorted((ROOT / "lmtest").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_calls_what_runs_or_unpickles(path: Path) -> None:
    called = {
        ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)
    }
    assert not called & LOADERS
