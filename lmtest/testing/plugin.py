"""The pytest plugin: a claim about a study is a test, and its verdict is the outcome.

    @pytest.mark.lmtest_study("runs/mine.toml", seeds="0-4", set=["training.steps=300"])
    @pytest.mark.lmtest_claim(kind="order", variants=["normal", "oracle"], measure="R1", prompt_set="ood")
    def test_the_oracle_keeps_the_rule(verdict): ...

Supported passes, refuted fails, undecided is an outcome of its own: not a failure, unless --lmtest-strict. Nothing heavier
than pytest is loaded until a test asks for a verdict or a run.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from lmtest.errors import LmtestError, UsageError
from lmtest.terminal import plain
from lmtest.testing.sources import Source, source_of
from lmtest.testing.verdict import Refuted, Undecided, Verdict, recorded, settle

if TYPE_CHECKING:
    from lmtest.directory import Run

FIELDS = [name for name in Verdict._fields if name != "statement"]
"""What stands in JUnit XML, under these names; the claim first."""
COLOURS = {"supported": "green", "refuted": "red", "undecided": "yellow"}
STUDY = "lmtest_study"
RUN = "lmtest_run"
CLAIM = "lmtest_claim"


class Asked(NamedTuple):
    """A claim that a test makes: where its numbers come from, and its table."""

    source: Source
    table: dict[str, Any]


class Suite:
    """What the tests of a session share: claims by source, runs, and verdicts, each made once."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.families: dict[Source, dict[str, dict[str, Any]]] = {}
        """Claims by the source that they are put to, and by test: what Holm's correction runs over."""
        self._judged: dict[Source, dict[str, Verdict]] = {}

    def run(self, source: Source) -> Run:
        option = self.config.getoption("lmtest_jobs")
        jobs = option or (1 if hasattr(self.config, "workerinput") else None)
        return source.run(self._folder(), jobs, self._tell)

    def verdict(self, item: pytest.Item, asked: Asked) -> Verdict:
        """The verdict on a test's claim, among all claims that the collected tests put to its source."""
        from lmtest.study import with_claims
        from lmtest.testing.judging import judge_claims, named

        source, where = asked.source, asked.source.path.name
        if self.families.get(source, {}).get(item.nodeid) != asked.table:
            raise UsageError(
                f"the marks of {item.name} were added after the tests were collected, when Holm's correction had counted its "
                "claims: add them in pytest_collection_modifyitems, or where the test stands"
            )
        study, languages = source.read()
        with_claims(study, languages, [named(asked.table, study)], where)  # an error comes before anything is trained
        if source not in self._judged:
            family: dict[str, dict[str, Any]] = {}
            for test, table in self.families[source].items():
                with contextlib.suppress(UsageError):  # a claim that does not fit is an error of its own test alone
                    full = named(table, study)
                    with_claims(study, languages, [full], where)
                    family[test] = full | {"id": test}  # unique, which ids of different modules need not be
            found = judge_claims(self.run(source), study, languages, [*family.values()], where)
            ids = [named(self.families[source][test], study)["id"] for test in family]
            self._judged[source] = {t: v._replace(claim=i) for t, i, v in zip(family, ids, found, strict=True)}
        return self._judged[source][item.nodeid]

    def _folder(self) -> Path:
        named = self.config.getoption("lmtest_runs") or self.config.getini("lmtest_runs")
        if named:
            return Path(self.config.rootpath / named)
        cache: Any = getattr(self.config, "cache", None)
        if cache is None:  # -p no:cacheprovider
            raise UsageError(
                "studies are run in pytest's cache, which is switched off: name a folder with --lmtest-runs=DIR"
            )
        return Path(cache.mkdir("lmtest"))

    def _tell(self, line: str) -> None:
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None and self.config.get_verbosity() >= 0:
            reporter.ensure_newline()
            reporter.write_line(line)


SUITE = pytest.StashKey[Suite]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lmtest", "claims about language models")
    group.addoption("--lmtest-strict", action="store_true", help="an undecided claim is a failure")
    group.addoption(
        "--lmtest-runs",
        metavar="DIR",
        help="write it with =: where studies are run (default: in pytest's cache)",
    )
    group.addoption(
        "--lmtest-jobs", type=int, metavar="N", help="processes of a study (default: a core each; 1 under xdist)"
    )
    parser.addini("lmtest_strict", "an undecided claim is a failure", type="bool", default=False)
    parser.addini("lmtest_runs", "where studies are run, relative to the root of the tests", default="")


def pytest_configure(config: pytest.Config) -> None:
    for line in (
        f"{STUDY}(file, seeds=…, set=[…]): the study that a claim is about; it is run once for all tests",
        f"{RUN}(directory): the finished run that a claim is about",
        f"{CLAIM}(id or the keys of a [[claims]] table): the claim that the fixture `verdict` decides",
    ):
        config.addinivalue_line("markers", line)
    config.stash[SUITE] = Suite(config)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    """Claims by source, before -k and -m leave any out: the correction does not depend on which tests are run today."""
    collected = [*items]
    yield  # others may add marks, as a conftest does
    suite = config.stash[SUITE]
    for item in collected:
        if item.get_closest_marker(CLAIM) is not None:
            try:
                asked = _asked(item)
            except LmtestError:
                continue  # the fixture says so, where the test is run
            suite.families.setdefault(asked.source, {})[item.nodeid] = asked.table


@pytest.fixture
def verdict(request: pytest.FixtureRequest) -> Verdict:
    """The verdict on the test's `lmtest_claim`; after the test's own body it is the test's outcome."""
    if request.node.get_closest_marker(CLAIM) is None:
        pytest.fail(f"expected @pytest.mark.{CLAIM}(…) for the fixture verdict, found none: add it", pytrace=False)
    with _plainly():
        found = request.config.stash[SUITE].verdict(request.node, _asked(request.node))
    request.node.stash[DECIDES] = found
    return found


@pytest.fixture(scope="session")
def lmtest_run(request: pytest.FixtureRequest) -> Callable[..., Run]:
    """`lmtest_run("study.toml", seeds=…, set=[…])`, or `lmtest_run(directory=…)` → a finished run, made once."""

    def run(study: str | Path | None = None, **options: Any) -> Run:
        with _plainly():
            source = source_of(request.config.rootpath, "lmtest_run", {"study": study} | options)
            source.read()
            return request.config.stash[SUITE].run(source)

    return run


DECIDES = pytest.StashKey[Verdict]()
"""The verdict that is a test's outcome."""
FOUND = pytest.StashKey[list[Verdict]]()
"""All verdicts of a test."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """The test's own body, and then its verdict."""
    seen: list[Verdict] = []
    token = recorded.set(seen)
    try:
        yield
        if DECIDES in item.stash:
            settle(item.stash[DECIDES])
        elif item.get_closest_marker(CLAIM) is not None:
            pytest.fail(
                f"nothing has judged @pytest.mark.{CLAIM}(…): give the test the argument verdict", pytrace=False
            )
    finally:
        recorded.reset(token)
        item.stash[FOUND] = [*seen, *([item.stash[DECIDES]] if DECIDES in item.stash else [])]
        for found in item.stash[FOUND]:
            item.user_properties += [(name, getattr(found, name)) for name in FIELDS]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Refuted: a failure in one sentence. Undecided: no failure, unless strict."""
    report: pytest.TestReport = yield
    if call.when == "call":  # what a report carries comes back from the workers of xdist, too
        report.__dict__["lmtest_verdicts"] = [found._asdict() for found in item.stash.get(FOUND, [])]
    if call.excinfo is not None and isinstance(error := call.excinfo.value, Refuted | Undecided):
        strict = item.config.getoption("lmtest_strict") or item.config.getini("lmtest_strict")
        if isinstance(error, Undecided) and not strict:
            report.outcome = "skipped"
            path, line, _ = item.location
            report.longrepr = (path, (line or 0) + 1, str(error))
        else:
            report.longrepr = str(error)
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_report_teststatus(report: pytest.TestReport) -> Any:
    """Undecided tests are counted as such, whether they pass or, under --lmtest-strict, fail."""
    if getattr(report, "when", None) != "call" or report.passed:
        return None
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    if isinstance(reason, str) and reason.startswith("undecided: "):
        return "undecided", "u", ("UNDECIDED", {"yellow": True})
    return None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A line a claim, and over how many of them each study's correction ran."""
    reports = itertools.chain.from_iterable(terminalreporter.stats.values())
    rows: list[dict[str, Any]] = [
        {key: plain(value).replace("\n", " ") if isinstance(value, str) else value for key, value in row.items()}
        for report in reports
        for row in getattr(report, "lmtest_verdicts", [])
    ]
    if not rows:
        return
    terminalreporter.section("lmtest verdicts")
    width = max(len(row["claim"]) for row in rows)
    for row in rows:
        published = "" if math.isnan(row["published"]) else f"; published {row['published']:.3g}"
        terminalreporter.write_line(
            f"{row['verdict']:<10} {row['claim']:<{width}}  {row['effect']:.3g} [{row['lower']:.3g}, {row['upper']:.3g}]  "
            f"p = {row['p_value']:.3g}  {row['seeds_used']}/{row['seeds_asked']} seeds{published}"
            + (f"  ({row['note']})" if row["note"] else ""),
            **{COLOURS[row["verdict"]]: True},
        )
    for study, family in sorted({(row["study"], row["family"]) for row in rows}):
        terminalreporter.write_line(f"Holm's correction over {family} claim{'s' * (family > 1)} on {study}")


@contextlib.contextmanager
def _plainly() -> Iterator[None]:
    """What a user did wrong is told in a line, without our traceback."""
    try:
        yield
    except LmtestError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None
    except OSError as error:
        place = f"could not read or write {error.filename or 'a file'}"
        raise pytest.fail.Exception(f"{place}: {error.strerror or error}", pytrace=False) from None


def _asked(item: pytest.Item) -> Asked:
    """What a test's markers ask. UsageError where they cannot be read."""
    claim, *more = item.iter_markers(CLAIM)
    if more or len(claim.args) > 1:
        raise UsageError(
            f"expected one claim of a test in one @pytest.mark.{CLAIM}(…), found more: write a test for each"
        )
    where = next((marker for marker in item.iter_markers() if marker.name in (STUDY, RUN)), None)
    if where is None:
        raise UsageError(
            f"expected @pytest.mark.{STUDY}(file) or {RUN}(directory) beside {CLAIM}, found neither: add one"
        )
    what = f"@pytest.mark.{where.name}"
    if len(where.args) > 1:
        raise UsageError(f"{what}: expected one place, and seeds = …, set = […] by name, found {where.args!r}")
    placed = dict.fromkeys(("study" if where.name == STUDY else "directory",), *where.args) if where.args else {}
    source = source_of(item.config.rootpath, what, placed | dict(where.kwargs))
    table: dict[str, Any] = dict(zip(("id",), claim.args, strict=False)) | dict(claim.kwargs)
    if not isinstance(table.get("id", ""), str):
        raise UsageError(
            f"@pytest.mark.{CLAIM}: expected the id of a claim as text, or keys = values, found {table['id']!r}"
        )
    if set(table) != {"id"}:
        doc = getattr(getattr(item, "obj", None), "__doc__", None) or ""
        table = {"id": item.name, "statement": " ".join(doc.split()) or item.name} | table
    return Asked(source, table)
