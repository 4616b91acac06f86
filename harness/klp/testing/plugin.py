# SPDX-License-Identifier: Apache-2.0
"""pytest for livepatches: a pristine guest for each test, modules, an armed trace, a checked kernel log.

docs/writing-tests.md teaches it. Importing this, and collecting, boots nothing and loads neither SSH nor
QMP: pytest loads every installed plugin in every project, so the rest of klp is imported only when the
first test that needs a guest is about to run.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from klp.errors import KlpError
from klp.images.names import kernel_complaint, series_of
from klp.testing import markers

if TYPE_CHECKING:
    from klp.drive.case import Case, TestedGuest
    from klp.drive.kernel_log import KernelLog
    from klp.drive.subject import LivepatchSubject, ModuleSubject
    from klp.drive.trace import Trace
    from klp.testing.session import Session, Sharing

_KERNEL = "klp_kernel"
_SESSION: pytest.StashKey[Session] = pytest.StashKey()
_CASE: pytest.StashKey[Case] = pytest.StashKey()
_FOLDER: pytest.StashKey[Path] = pytest.StashKey()
_ERROR: pytest.StashKey[str] = pytest.StashKey()
_REFUSED: pytest.StashKey[str] = pytest.StashKey()
_WRONG: pytest.StashKey[str] = pytest.StashKey()
_OUTCOMES: pytest.StashKey[list[str]] = pytest.StashKey()
_SHARED: pytest.StashKey[dict[str, str]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("klp", "kernel livepatches")
    group.addoption(
        "--klp-kernel", action="append", default=[], metavar="K",
        help="run the tests on this kernel, a name of `klp kernels` or a build tree; can be given again",
    )  # fmt: skip
    group.addoption(
        "--klp-out", type=Path, metavar="DIR", help="where failed tests leave their run folders"
    )
    group.addoption("--klp-keep", action="store_true", help="keep the run folders of passed tests, too")
    group.addoption(
        "--klp-verdicts", metavar="FILE",
        help="write there what each test's trace says on every rule, for `klp coverage`",
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers, and refuse a kernel that is none."""
    for line in markers.MARKERS:
        config.addinivalue_line("markers", line)
    for kernel in config.getoption("--klp-kernel"):
        if complaint := kernel_complaint(kernel):
            raise pytest.UsageError(f"--klp-kernel={kernel}: {complaint}")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Begin the file of verdicts anew, before a worker of pytest-xdist is started."""
    config = session.config
    if not (file := _verdicts_file(config)) or config.option.collectonly or hasattr(config, "workerinput"):
        return
    from klp.records import coverage

    try:
        coverage.begin_session(file)
    except KlpError as error:
        raise pytest.UsageError(f"--klp-verdicts: {error.message}") from None


def _verdicts_file(config: pytest.Config) -> Path | None:
    name = config.getoption("--klp-verdicts")
    return config.invocation_params.dir / name if name else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what uses a guest once for each kernel."""
    if _KERNEL not in metafunc.fixturenames:
        return
    kernels = list(dict.fromkeys(metafunc.config.getoption("--klp-kernel")))
    if not kernels:
        try:
            from klp import settings

            kernels = [settings.load().kernel]
        except KlpError as error:  # a hook of collection can refuse, this one cannot
            kernels, metafunc.config.stash[_REFUSED] = [""], error.message
    # In scope session, so that pytest puts the tests of one kernel one after the other: guests of another
    # are ended first.
    metafunc.parametrize(
        _KERNEL, kernels, indirect=True, scope="session", ids=[Path(each).name for each in kernels]
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse wrong settings, markers without the argument they need, and unknown kernels.

    Last of all plugins: what -k and -m left out has gone from `items` by then, and stops nobody.
    """
    for item in items:
        kernel = _kernel_of(item)
        refused = config.stash.get(_REFUSED, "") if kernel == "" else ""
        why = refused or markers.complaint(item) or (kernel_complaint(kernel) if kernel else "")
        if why and not hasattr(config, "workerinput"):
            raise pytest.UsageError(why if refused else f"{item.nodeid}: {why}")
        if why:  # a worker of pytest-xdist has no way to refuse but by failing the test
            item.stash[_WRONG] = why


def _kernel_of(item: pytest.Item) -> str | None:
    """Return the kernel an item runs on; None for one without a guest."""
    params: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    kernel = params.get(_KERNEL)
    return str(kernel) if kernel is not None else None


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """Make the kernels ready before the first test: it may take minutes, and is no test's time.

    Each worker of pytest-xdist begins with another kernel, so that they do not wait for each other.
    """
    if not session.config.option.collectonly:
        used = (_kernel_of(each) for each in session.items if not _not_for(each))
        kernels = list(dict.fromkeys(kernel for kernel in used if kernel))
        first = _worker_number(session.config) % max(1, len(kernels))
        # What two of them want at once, the cache's lock has one make and the other wait for.
        for kernel in kernels[first:] + kernels[:first]:
            with suppress(KlpError):  # remembered, and reported by each test that needs the kernel
                _session(session.config).ready_kernel(kernel)
    return (yield)


def _worker_number(config: pytest.Config) -> int:
    """Return which worker of pytest-xdist this is, from 0; 0 where there are none."""
    worker: dict[str, str] = getattr(config, "workerinput", {})
    return int(worker.get("workerid", "gw0").removeprefix("gw"))


def _not_for(item: pytest.Item) -> str:
    """Return why an item is not for its kernel; an empty string if it is, or if that is not known yet."""
    kernel = _kernel_of(item)
    return markers.not_for(item, series_of(kernel)) if kernel else ""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is not for its kernel, before anything is booted."""
    if wrong := item.stash.get(_WRONG, ""):
        pytest.fail(wrong, pytrace=False)
    if why := _not_for(item):
        pytest.skip(why)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Check the guest and its kernel log once the test itself has passed.

    Here, not in a fixture's teardown: what they show is the test's failure, not an error after it.
    """
    result = yield
    if case := item.stash.get(_CASE, None):
        case.check()
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Report a failure of the guest or the kernel without a traceback, and name the folder that is kept."""
    report = yield
    if _kernel_of(item) is None:
        return report
    item.stash.setdefault(_OUTCOMES, []).append(report.outcome)
    # Of the three reports the last: skipped in setup and failed in teardown are known by then as well.
    if report.when == "teardown":
        _record(item)
    if not report.failed or call.excinfo is None:
        return report
    error = call.excinfo.value
    if isinstance(error, KlpError) and not item.config.option.fulltrace:
        report.longrepr = _short(item, call.excinfo, error)
    # The fixture's teardown comes after this, and keeps the guest's files if it finds it.
    item.stash[_ERROR] = call.excinfo.exconly()
    if _FOLDER in item.stash:
        report.sections.append(("klp run folder", str(item.stash[_FOLDER])))
    return report


def _record(item: pytest.Item) -> None:
    """Write down what a test's trace says, if the user asked for that; for `klp coverage`."""
    if not (file := _verdicts_file(item.config)):
        return
    from klp.analysis.coverage import RecordedTest
    from klp.records import coverage

    outcomes, case = item.stash[_OUTCOMES], item.stash.get(_CASE, None)
    bad = (each for each in ("failed", "skipped") if each in outcomes)
    record = RecordedTest(
        test=item.nodeid,
        kernel=str(_kernel_of(item)),
        release=case.guest.release if case else "",
        outcome=next(bad, "passed"),
        verdicts=case.observed() if case else {},
        breaks=tuple(markers.breaks_of(item)),
    )
    coverage.add_test(file, record)


def _short(item: pytest.Item, excinfo: pytest.ExceptionInfo[BaseException], error: KlpError) -> Any:
    """Return what the failure tells, with the line of the test in which it was met."""
    from klp.drive.case import story

    where = ""
    for entry in excinfo.traceback:
        if Path(str(entry.path)) == item.path:
            where = f"\nat {item.path.name}:{entry.lineno + 1}: {str(entry.statement).strip()}"
    failure = pytest.fail.Exception(story(error) + where, pytrace=False).with_traceback(excinfo.tb)
    return pytest.ExceptionInfo.from_exception(failure).getrepr(style="value")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give a worker of pytest-xdist what all workers share: label, folder of guest slots, and terminal."""
    from klp.testing import session, terminal

    if _SHARED not in node.config.stash:
        node.config.stash[_SHARED] = {
            "klp_label": session.label(),
            "klp_guest_slots": tempfile.mkdtemp(prefix="klp-guest-slots-"),
            terminal.TERMINAL_KEY: terminal.path_for_workers(node.config),
        }
    node.workerinput.update(node.config.stash[_SHARED])


def pytest_unconfigure(config: pytest.Config) -> None:
    """End every guest; where the workers of pytest-xdist have ended, remove what they shared."""
    if session := config.stash.get(_SESSION, None):
        session.end()
    if shared := config.stash.get(_SHARED, None):
        shutil.rmtree(shared["klp_guest_slots"], ignore_errors=True)


def _session(config: pytest.Config) -> Session:
    """Return the session's kernels; this is where the rest of the package is imported."""
    if _SESSION not in config.stash:
        from klp import paths, settings
        from klp.consoles import PlainLines, PrintableConsole
        from klp.durations import Durations
        from klp.paths import CacheLayout
        from klp.testing import session, terminal

        worker: dict[str, Any] = getattr(config, "workerinput", {})
        console = PrintableConsole(file=terminal.SessionTerminal(config).as_file(), width=120)
        name, out = worker.get("klp_label") or session.label(), config.getoption("--klp-out")
        known = Durations(CacheLayout(paths.cache_root(settings.load().cache)).durations)
        progress = PlainLines(console, known)
        config.stash[_SESSION] = session.Session(out, name, progress, _sharing(worker))
    return config.stash[_SESSION]


def _sharing(worker: dict[str, Any]) -> Sharing:
    from klp.testing.session import Sharing

    if not worker:
        return Sharing()
    return Sharing(worker["workercount"], Path(worker["klp_guest_slots"]))


@pytest.fixture(scope="session")
def klp_kernel(request: pytest.FixtureRequest) -> str:
    """The kernel this test runs on, as it was asked for: ``6.12``, or a build tree's folder."""
    return str(request.param)


@pytest.fixture
def klp_case(request: pytest.FixtureRequest, klp_kernel: str) -> Iterator[Case]:
    """The test's guest with all that belongs to it; tests use the fixtures below."""
    from klp.drive.case import Case, Promised
    from klp.klog.expected import Expected

    item, session = request.node, _session(request.config)
    ready_kernel = session.ready_kernel(klp_kernel)
    promised = Promised(
        log=tuple(Expected(*each) for each in markers.expects_of(item)),
        holds=tuple(markers.rules_of(item)),
        breaks=tuple(markers.breaks_of(item)),
    )
    places = (item.path.parent, request.config.invocation_params.dir, request.config.rootpath)
    item.user_properties += [("klp_rule", rule) for rule in markers.rules_of(item)]
    with session.lease(klp_kernel) as ready_guest:
        case = Case(ready_kernel, ready_guest, item.name, places, promised)
        item.stash[_CASE], item.stash[_FOLDER] = case, session.folder_for(item.nodeid)
        yield case
        item.user_properties += case.properties()
        if request.config.getoption("--klp-keep") or _ERROR in item.stash:
            case.keep(item.stash[_FOLDER], item.stash.get(_ERROR, None))


@pytest.fixture
def guest(klp_case: Case) -> TestedGuest:
    """A pristine guest with its probes armed, this test's own: `run`, `read`, `put`, `get`, `version`, …"""
    return klp_case.guest


@pytest.fixture
def livepatch(klp_case: Case) -> Callable[..., LivepatchSubject]:
    """Build and ship a livepatch: ``livepatch(folder, .c, .ko, or upstream name[, module's name])``."""
    return klp_case.livepatch


@pytest.fixture
def module(klp_case: Case) -> Callable[..., ModuleSubject]:
    """Build and ship a plain module, such as a livepatch's target; as `livepatch`."""
    return klp_case.module


@pytest.fixture
def trace(klp_case: Case) -> Trace:
    """What the probes see in this guest: `mark`, `events`, `transitions`."""
    return klp_case.trace


@pytest.fixture
def kernel_log(klp_case: Case) -> KernelLog:
    """The guest's kernel log since the test began: `lines`, `find`, `wait`; it is checked in any case."""
    return klp_case.log
