# SPDX-License-Identifier: Apache-2.0
"""The report page in a real browser: it loads without error, asks for nothing, says what run.json says."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess

import msgspec
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from klp.analysis.calls import FunctionCalls, TaskCalls
from klp.analysis.checked import CheckResult
from klp.analysis.evidence import Verdict, overall
from klp.records.encoding import decode_run
from klp.report.html_words import quantity, span
from tests.integration.browser import chromium
from tests.integration.conftest import KLP
from tests.unit.comparisons import check_of, outcome, write_check
from tests.unit.runfolders import sample, write_run

PHONE, DESK = (390, 844), (1200, 900)
# Desktop windows beside others, and phones.
WIDTHS = (360, 400, 640, 700, 800, 840, 900, 1024, 1100)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    write_check(root / "base", check_of(*outcomes()))
    write_check(root / "check", check_of(*outcomes(fails=True)), life=sample(tasks=30))
    write_run(root / "a-6.12", sample(tasks=30))
    write_run(root / "b-6.1", sample("6.1.192", hold=False), sample("6.1.192"))
    every = itertools.product(("build", "enable-again"), ("6.1", "6.12", "7.2"))
    unseen = [outcome(name, Verdict.NOT_OBSERVED, kernel=kernel, folder="") for name, kernel in every]
    write_check(root / "three", check_of(*unseen))
    for words in (["a-6.12", "b-6.1", "--base", "b-6.1", "--out", root / "page.html"],
                  ["check", "--against", "base", "--out", root / "check.html"],
                  ["three", "--out", root / "three.html"]):  # fmt: skip
        done = subprocess.run(
            [KLP, "report", *words], capture_output=True, text=True, check=False,
            env={**os.environ, "KLP_RUNS": str(root)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    return root


CALLS = (
    FunctionCalls(
        object="vmlinux", old="cmdline_proc_show", new="livepatch_cmdline_proc_show",
        tasks=(TaskCalls(task="cat", pid=300, calls=1_240), TaskCalls(task="sh", pid=301, calls=2)),
    ),
    FunctionCalls(
        object="klp_target", old="klp_target_answer", new="livepatch_answer",
        uncounted="its object klp_target was never loaded",
    ),
)  # fmt: skip


def outcomes(fails=False):
    """Three scenarios on two kernels, one of them twice; in the second check, one fails on one kernel."""
    for kernel, name, repetition in itertools.product(
        ("6.1", "6.12"), ("build", "life", "reverse"), (1, 2)
    ):
        if name == "reverse" or repetition == 1:
            folder = "" if name == "build" else f"{kernel}/fix/{name}{'.2' * (repetition == 2)}"
            bad = fails and (kernel, name) == ("6.12", "life")
            yield outcome(
                name, Verdict.VIOLATED if bad else Verdict.HELD, kernel=kernel, repetition=repetition,
                folder=folder, reasons=("held up 2.0 s by task3[3]",) if bad else (),
                calls=CALLS if folder else (),
            )  # fmt: skip


@pytest.fixture(scope="module")
def driver(tool, tmp_path_factory):
    with chromium(tool, tmp_path_factory.mktemp("profile")) as started:
        yield started


def shape(driver, size=DESK, scheme="light", height=None):
    width, own = size
    metrics = {"width": width, "height": height or own, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


def ready(driver):
    WebDriverWait(driver, 60).until(
        lambda it: it.execute_script("return document.documentElement.dataset.ready") == "yes"
    )


@pytest.fixture
def page(driver, folder):
    """The page of two runs."""
    shape(driver)
    driver.get((folder / "page.html").as_uri())
    ready(driver)
    return driver


def texts(where, css):
    return [each.get_property("textContent").strip() for each in where.find_elements(By.CSS_SELECTOR, css)]


def test_it_loads_without_an_error_and_asks_for_nothing(page, folder) -> None:
    page.get_log("performance")  # of what the browser itself asked for when it began
    page.refresh()
    ready(page)
    assert page.get_log("browser") == []
    asked = [
        json.loads(entry["message"])["message"]["params"]["request"]["url"]
        for entry in page.get_log("performance")
        if '"Network.requestWillBeSent"' in entry["message"]
    ]
    assert (folder / "page.html").as_uri() in asked
    assert {url.partition(",")[0] for url in asked} <= {(folder / "page.html").as_uri(), "data:"}
    text = (folder / "page.html").read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy
    assert policy[1].startswith("default-src 'none'")
    assert "http" not in policy[1]


def test_its_numbers_are_those_of_run_json(page, folder) -> None:
    heads = page.find_elements(By.CSS_SELECTOR, ".head")
    sections = page.find_elements(By.CSS_SELECTOR, "section.run")
    for head, section, name in zip(heads, sections, ("a-6.12", "b-6.1"), strict=True):
        result = decode_run((folder / name / "run.json").read_bytes())
        [plan] = result.plans
        assert texts(head, "[data-number=events]") == [str(result.events)]
        for field, thing in (("passes", "pass"), ("attempts", "attempt")):
            numbers = [quantity(getattr(each, field), thing) for each in plan.transitions]
            assert texts(section, f".plan .transition [data-number={field}]") == numbers
        signals = [quantity(each.signals, "signal") for each in plan.transitions if each.signals]
        assert texts(section, ".plan [data-number=signals]") == signals
        spans = [span(each.duration_ns) for each in plan.transitions]
        assert texts(section, ".plan [data-number=seconds]") == spans
        tasks = [str(count) for each in plan.transitions for count in each.tasks.values()]
        assert texts(section, ".plan [data-number=tasks]") == tasks
        lanes = "".join(texts(section, ".plan .lane"))
        for one in (one for each in plan.transitions for one in each.stragglers):
            assert f"{one.comm}[{one.pid}]" in lanes
            assert span(one.held_ns) in lanes
        assert texts(section, "[data-number=allocated]") == [str(plan.shadow.allocated)]
        assert texts(section, "[data-number=left]") == [str(len(plan.shadow.left))]
        assert len(texts(section, ".callbacks li")) == len(plan.callbacks)
        assert sorted(texts(section, ".checks .verdict")) == sorted(
            each.verdict.value for each in plan.checks
        )


def test_verdicts_by_plan_and_kernel(page) -> None:
    rows = page.find_elements(By.CSS_SELECTOR, "#matrix tbody tr")
    assert [texts(row, "th") + texts(row, ".verdict") for row in rows] == [
        ["livepatch-sample", "violated", "violated"]
    ]
    heads = texts(page, "#matrix thead th")
    assert [head[:8].strip() for head in heads] == ["livepatc", "6.12.117", "6.1.192b"]


def lanes(where, css=".plan .transition"):
    """Return what the first timeline shows: the way its tasks switched, and how many they are."""
    timeline = where.find_element(By.CSS_SELECTOR, css)
    found = timeline.find_elements(By.CSS_SELECTOR, ".lane")
    return [(each.get_attribute("data-path"), each.get_attribute("data-count")) for each in found]


def test_timelines_hold_what_the_trace_says(page) -> None:
    assert lanes(page) == [("retry pass", "1"), ("exit", "1"), ("first pass", "32")]
    first = page.find_element(By.CSS_SELECTOR, ".plan .transition")
    assert len(first.find_elements(By.CSS_SELECTOR, ".marks .pass")) == 3
    assert len(first.find_elements(By.CSS_SELECTOR, ".marks i.signal")) == 1
    assert texts(first, ".curve p") == ["Tasks left to switch: 34 at first, 0 at last"]
    costs = dict.fromkeys(texts(first, ".costs td:last-child"))
    assert set(costs) == {
        "it ran on a CPU", "it slept in a function that changes", "the task switched",
    }  # fmt: skip
    lives = page.find_element(By.CSS_SELECTOR, ".run .lifetimes")
    assert [path for path, _ in lanes(lives, ".timeline")] == ["left", "freed"]


def test_the_axis_and_the_first_rows_of_the_story_are_in_view_at_once(page) -> None:
    page.execute_script("document.querySelector('.slow .timeline').scrollIntoView()")
    story = page.find_element(By.CSS_SELECTOR, ".slow .timeline")
    assert story.rect["height"] <= DESK[1]
    seen = page.execute_script("""
        return [...arguments[0].querySelectorAll(".axis span, .lane .bar")].map((each) => {
          const box = each.getBoundingClientRect();
          return box.top >= 0 && box.bottom <= innerHeight;
        });""", story)  # fmt: skip
    assert len(seen) > 4
    assert all(seen)


def test_a_bar_stands_where_its_task_waited(page) -> None:
    left, right = page.execute_script("""
        const area = document.querySelector(".slow .area").getBoundingClientRect();
        const bar = document.querySelector(".slow .lane .bar i").getBoundingClientRect();
        return [(bar.left - area.left) / area.width, (bar.right - area.left) / area.width];""")
    assert 0 <= left < 0.05
    assert 0.9 < right <= 1.001  # task 3 switched last of all


def test_text_of_a_trace_stays_text(page) -> None:
    assert "<b>seen</b>" in "".join(texts(page, ".checks"))
    assert page.find_elements(By.CSS_SELECTOR, ".checks b") == []


def test_the_kernel_log_shows_the_canary(page) -> None:
    assert texts(page, "pre .canary")[0].endswith("canary livepatch-sample")


def test_the_comparison_with_the_base(page) -> None:
    rows = [texts(row, "th, td") for row in page.find_elements(By.CSS_SELECTOR, ".compared .finding")]
    why = "one against one cannot tell a change from chance"
    passes = ["told", "6.12 livepatch-sample", "passes: patching", "1", "3", why]
    assert passes in rows
    assert "as a whole" not in " ".join(cell for row in rows for cell in row)  # both are violated
    assert len(page.find_elements(By.CSS_SELECTOR, ".compared")) == 1  # the base is not beside itself


@pytest.fixture
def check_page(driver, folder):
    """The page of a check, with every trace unfolded."""
    shape(driver)
    driver.get((folder / "check.html").as_uri())
    ready(driver)
    driver.execute_script(
        "for (const each of document.querySelectorAll('.outcome, .trace')) { each.open = true; }"
    )
    return driver


def test_the_matrix_of_a_check_says_what_check_json_says(check_page, folder) -> None:
    result = msgspec.json.decode((folder / "check/check.json").read_bytes(), type=CheckResult)
    assert texts(check_page, ".matrix thead th") == ["scenario", "6.1.1", "6.12.1"]
    for row in check_page.find_elements(By.CSS_SELECTOR, ".matrix tbody tr"):
        [scenario] = texts(row, "th")
        for kernel, cell in zip(result.kernels, row.find_elements(By.TAG_NAME, "td"), strict=True):
            own = result.of(kernel.name, "fix", scenario)
            verdict = overall(each.verdict for each in own)
            assert texts(cell, ".verdict") == [verdict.value]
            share = f"{sum(each.verdict is verdict for each in own)}/{len(own)}"
            assert texts(cell, ".share") == ([share] if len(own) > 1 else [])
            assert texts(cell, ".took") == [f"{sum(each.seconds for each in own):.1f} s"]
            link = cell.find_element(By.TAG_NAME, "a").get_attribute("href").partition("#")[2]
            target = check_page.find_element(By.ID, link)
            assert texts(target, ":scope > summary .verdict") == [verdict.value]
            assert scenario in texts(target, ":scope > summary")[0]
    assert check_page.get_log("browser") == []


def test_a_check_leads_with_its_verdict_the_first_fault_and_its_matrix(check_page, folder) -> None:
    result = msgspec.json.decode((folder / "check/check.json").read_bytes(), type=CheckResult)
    head = check_page.find_element(By.CSS_SELECTOR, ".head")
    assert texts(head, "h2 .verdict") == ["violated"]
    assert texts(head, ".fault") == [f"fix, life on 6.12: {result.violated[0].reasons[0]}"]
    assert texts(head, ".headlines li") == list(result.headlines)
    assert texts(check_page, ".ran [data-number=calls]") == ["3,726", "0"] * 2
    assert texts(check_page, ".ran [data-number=tasks]") == ["6 tasks"] * 2
    fault, matrix, headlines = (
        head.find_element(By.CSS_SELECTOR, each).rect["y"] for each in (".fault", ".matrix", ".headlines")
    )
    assert fault < matrix < headlines
    assert matrix < 400


def test_each_outcome_has_its_reasons_its_command_and_its_trace(check_page, folder) -> None:
    result = msgspec.json.decode((folder / "check/check.json").read_bytes(), type=CheckResult)
    articles = check_page.find_elements(By.CSS_SELECTOR, ".outcome")
    by_kernel = [
        each for kernel in result.kernels for each in result.outcomes if each.kernel == kernel.name
    ]
    for each, article in zip(by_kernel, articles, strict=True):
        assert texts(article, ".reasons li") == list(each.reasons)
        assert texts(article, ".command") == [each.command]
        if not each.folder:
            assert article.find_elements(By.CSS_SELECTOR, ".trace") == []
            continue
        run = decode_run((folder / "check" / each.folder / "run.json").read_bytes())
        [plan] = run.plans
        passes = [quantity(one.passes, "pass") for one in plan.transitions]
        assert texts(article, ".transition [data-number=passes]") == passes


def test_what_became_worse_since_the_base_check(check_page, folder) -> None:
    done = subprocess.run(
        [KLP, "compare", "base", "check", "--json"], capture_output=True, text=True, check=False,
        cwd=folder, env={**os.environ, "KLP_RUNS": str(folder)},
    )  # fmt: skip
    assert done.returncode == 1
    findings = json.loads(done.stdout)["findings"]
    rows = [texts(row, "th, td") for row in check_page.find_elements(By.CSS_SELECTOR, ".finding")]
    assert [(row[0], row[3], row[4]) for row in rows] == [
        (each["grade"], each["base"], each["new"]) for each in findings
    ]
    worse = ["regression", "6.12 fix life", "verdict: as a whole", "1 of 1 held",
             "1 of 1 violated: held up 2.0 s by task3[3]", "never in the base"]  # fmt: skip
    assert worse in rows


def test_the_filters_of_a_check(check_page) -> None:
    def visible(css):
        return [each for each in check_page.find_elements(By.CSS_SELECTOR, css) if each.is_displayed()]

    whole = len(visible(".outcome"))
    Select(check_page.find_element(By.ID, "filter-verdict")).select_by_visible_text("violated")
    [article] = visible(".outcome")
    assert "life" in article.text
    [row] = visible(".matrix tbody tr")
    assert texts(row, "th") == ["life"]
    Select(check_page.find_element(By.ID, "filter-verdict")).select_by_visible_text("all")
    assert len(visible(".outcome")) == whole
    Select(check_page.find_element(By.ID, "filter-plan")).select_by_visible_text("reverse")
    assert len(visible(".outcome")) == 4
    assert visible(".finding") == []
    assert check_page.get_log("browser") == []


def test_a_cell_leads_to_its_section_by_keyboard(driver, folder) -> None:
    shape(driver)
    driver.get((folder / "check.html").as_uri())
    ready(driver)
    cell = driver.find_element(By.CSS_SELECTOR, ".matrix td[data-verdict=violated] a")
    cell.send_keys(Keys.ENTER)
    target = driver.find_element(By.ID, cell.get_attribute("href").partition("#")[2])
    top = driver.execute_script("return arguments[0].getBoundingClientRect().top", target)
    assert 0 <= top < DESK[1]
    assert target.get_attribute("open")


def test_a_link_of_the_story_opens_what_it_leads_to(page) -> None:
    link = page.find_element(By.CSS_SELECTOR, ".slow a")
    target = page.find_element(By.ID, link.get_attribute("href").partition("#")[2])
    assert not target.is_displayed()
    link.send_keys(Keys.ENTER)
    WebDriverWait(page, 10).until(lambda _: target.is_displayed())
    top = page.execute_script("return arguments[0].getBoundingClientRect().top", target)
    assert -1 < top < DESK[1]


def shown_rows(page):
    rows = page.find_elements(By.CSS_SELECTOR, "#rest .transition .lane:not([hidden])")
    return [each.get_attribute("data-task") for each in rows]


def test_filters(page) -> None:
    whole = len(shown_rows(page))
    Select(page.find_element(By.ID, "filter-path")).select_by_value("exit")
    assert set(shown_rows(page)) == {"task2[2]"}
    assert page.find_element(By.CSS_SELECTOR, ".plan .lane[data-path=exit]").is_displayed()  # unfolded
    assert texts(page, "#shown")[0].startswith(f"{len(shown_rows(page))} of {whole} ")
    Select(page.find_element(By.ID, "filter-path")).select_by_value("")
    field = page.find_element(By.ID, "filter-task")
    field.send_keys("TASK3[")
    assert "task3[3]" in shown_rows(page)
    assert all("task3[3]" in each for each in shown_rows(page))
    field.clear()
    field.send_keys(" ", Keys.BACKSPACE)
    assert len(shown_rows(page)) == whole
    assert texts(page, "#shown") == [""]


def test_the_filter_of_plans_hides_the_others(page) -> None:
    page.execute_script("document.querySelector('.plan').dataset.plan = 'another'")
    Select(page.find_element(By.ID, "filter-plan")).select_by_visible_text("livepatch-sample")
    assert [each.is_displayed() for each in page.find_elements(By.CSS_SELECTOR, ".plan")] == [False, True]
    assert not page.find_element(By.CSS_SELECTOR, ".others").is_displayed()
    assert page.get_log("browser") == []


def test_by_keyboard(page) -> None:
    def focused():
        return page.switch_to.active_element

    page.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    assert focused().text == "Skip to the details"
    focused().send_keys(Keys.ENTER)
    focused().send_keys(Keys.TAB)
    assert focused().get_attribute("id") == "filter-plan"
    reached = set()
    for _ in range(60):
        focused().send_keys(Keys.TAB)
        reached.add(focused().tag_name)
    assert {"input", "select", "summary"} <= reached
    details = page.find_element(By.CSS_SELECTOR, ".rules")
    details.find_element(By.TAG_NAME, "summary").send_keys(Keys.ENTER)
    assert details.get_attribute("open")


@pytest.mark.parametrize("which", ["page", "check_page"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(request, which, scheme) -> None:
    page = request.getfixturevalue(which)
    shape(page, scheme=scheme)
    told = page.execute_script("""
        const style = (e) => getComputedStyle(e);
        const back = style(document.body).backgroundColor;
        const css = "p, th, td, li, dt, dd, h1, h4, em, .axis span, .verdict, .grade, a, summary, label," +
          "small";
        return [...document.querySelectorAll(css)]
          .map((e) => [e.tagName + "." + e.className, style(e).color, back]);""")
    poor = [each for each in told if contrast(each[1], each[2]) < 4.5]
    assert told
    assert poor == []


def contrast(one, other):
    """Return the ratio of WCAG 2."""

    def luminance(colour):
        parts = [int(each) / 255 for each in re.findall(r"\d+", colour)[:3]]
        linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("name", ["page.html", "check.html"])
def test_on_a_phone(driver, folder, name) -> None:
    shape(driver, PHONE)
    driver.get((folder / name).as_uri())
    ready(driver)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= PHONE[0]
    assert driver.find_element(By.ID, "filter-task").is_displayed()
    for each in driver.find_elements(By.CSS_SELECTOR, "#filters select, #filters input"):
        assert each.size["height"] >= 30


@pytest.mark.parametrize("name", ["page.html", "check.html", "three.html"])
def test_nothing_scrolls_sideways_in_narrow_windows(driver, folder, name) -> None:
    shape(driver)
    driver.get((folder / name).as_uri())
    ready(driver)
    driver.execute_script("for (const each of document.querySelectorAll('details')) { each.open = true; }")
    for width in WIDTHS:
        shape(driver, (width, 844))
        wider = driver.execute_script("""
            const all = [document.documentElement, ...document.querySelectorAll("body *")];
            const scrolls = (each) => each.scrollWidth > each.clientWidth + 1 && each.clientWidth > 0 &&
              ["auto", "scroll"].includes(getComputedStyle(each).overflowX);
            return all.filter((each) => scrolls(each) || each.scrollWidth > innerWidth)
              .map((each) => each.outerHTML.slice(0, 200));""")
        assert (width, wider) == (width, [])


def failure(folder, *words):
    done = subprocess.run(
        [KLP, "report", *words], capture_output=True, text=True, check=False, cwd=folder,
        env={**os.environ, "KLP_RUNS": str(folder)},
    )  # fmt: skip
    [line] = [each for each in done.stderr.splitlines() if each.startswith("error: ")]
    return done.returncode, line


def test_misuse_is_one_line(folder, tmp_path) -> None:
    assert failure(folder, "none") == (2, "error: none: no such run")
    assert failure(folder, "a-6.12", "--base", "none") == (2, "error: none: no such run")
    code, line = failure(folder, "a-6.12", "--out", "/nowhere/page.html")
    assert (code, "/nowhere/page.html" in line) == (4, True)
    cut = write_run(tmp_path / "cut", sample())
    (cut / "run.json").write_bytes((cut / "run.json").read_bytes()[:-9])
    code, line = failure(folder, str(cut))
    assert (code, "cut or damaged" in line) == (2, True)
    check = write_check(tmp_path / "cut-check", check_of(outcome("life")))
    text = (check / "check.json").read_bytes()
    (check / "check.json").write_bytes(text[:-9])
    code, line = failure(folder, str(check))
    assert (code, "check.json is cut or damaged" in line) == (2, True)
    (check / "check.json").write_bytes(text.replace(b'"schema": 2', b'"schema": 9', 1))
    code, line = failure(folder, "a-6.12", "--against", str(check))
    assert (code, "of a newer klp (schema 9" in line) == (2, True)
    (check / "check.json").write_bytes(text)
    (check / "6.12/fix/life/events.jsonl").unlink()
    code, line = failure(folder, str(check))
    assert (code, "no events.jsonl" in line) == (2, True)
    empty = write_run(tmp_path / "empty", sample())
    (empty / "events.jsonl").unlink()
    code, line = failure(folder, str(empty))
    assert (code, "no events.jsonl" in line) == (2, True)


def test_perfetto_from_the_command_line(folder, tmp_path) -> None:
    target = tmp_path / "trace.pftrace"
    done = subprocess.run(
        [KLP, "report", folder / "a-6.12", "--perfetto", target], capture_output=True, text=True,
        check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"task3 [3]" in target.read_bytes()
    assert "open it at https://ui.perfetto.dev" in done.stdout
    assert not (tmp_path / "report.html").exists()
