# SPDX-License-Identifier: Apache-2.0
"""The report page in a real browser: it loads without error, asks for nothing, says what run.json says."""

from __future__ import annotations

import json
import os
import re
import subprocess

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from harness.report.asjson import decode
from harness.report.html_data import seconds
from tests.integration.browser import chromium
from tests.integration.conftest import KLP
from tests.unit.runfolders import sample, write_run

PHONE, DESK = (390, 844), (1200, 900)
UNDRAWN = """
    const drawn = (each) => each.querySelector(".main-svg") || each.closest("details:not([open])");
    return [...document.querySelectorAll(".plot")].filter((each) => !drawn(each)).length;
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    write_run(root / "a-6.12", sample(tasks=30))
    write_run(root / "b-6.1", sample("6.1.192", hold=False), sample("6.1.192"))
    done = subprocess.run(
        [KLP, "report", "a-6.12", "b-6.1", "--base", "b-6.1", "--out", root / "page.html"],
        capture_output=True, text=True, check=False, env={**os.environ, "KLP_RUNS": str(root)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return root


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
    """The page, with every figure in sight and drawn."""
    shape(driver, height=12_000)
    driver.get((folder / "page.html").as_uri())
    ready(driver)
    WebDriverWait(driver, 60).until(lambda it: it.execute_script(UNDRAWN) == 0)
    return driver


def texts(where, css):
    return [each.get_property("textContent").strip() for each in where.find_elements(By.CSS_SELECTOR, css)]


def test_it_loads_without_an_error_and_asks_for_nothing(page, folder) -> None:
    page.get_log("performance")  # of what the browser itself asked for when it began
    page.refresh()
    ready(page)
    WebDriverWait(page, 60).until(lambda it: it.execute_script(UNDRAWN) == 0)
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
    sections = page.find_elements(By.CSS_SELECTOR, "section.run")
    for section, name in zip(sections, ("a-6.12", "b-6.1"), strict=True):
        result = decode((folder / name / "run.json").read_bytes())
        [plan] = result.plans
        assert texts(section, "[data-number=events]") == [str(result.events)]
        for field in ("passes", "attempts", "signals"):
            told = [str(getattr(each, field)) for each in plan.transitions]
            assert texts(section, f"article .transition [data-number={field}]") == told
        spans = [seconds(each.duration_ns) for each in plan.transitions]
        assert texts(section, "article [data-number=seconds]") == spans
        tasks = [str(count) for each in plan.transitions for count in each.tasks.values()]
        assert texts(section, "article [data-number=tasks]") == tasks
        held = [seconds(one.held_ns) for each in plan.transitions for one in each.stragglers]
        assert texts(section, "article .stragglers [data-number=held]") == held
        assert texts(section, "[data-number=allocated]") == [str(plan.shadow.allocated)]
        assert texts(section, "[data-number=left]") == [str(len(plan.shadow.left))]
        assert len(texts(section, ".callbacks li")) == len(plan.callbacks)
        assert texts(section, ".checks .verdict") == [each.verdict.value for each in plan.checks]


def test_verdicts_by_plan_and_kernel(page) -> None:
    rows = page.find_elements(By.CSS_SELECTOR, "#matrix tbody tr")
    assert [texts(row, "th") + texts(row, ".verdict") for row in rows] == [
        ["livepatch-sample", "violated", "violated"]
    ]
    heads = texts(page, "#matrix thead th")
    assert [head[:8].strip() for head in heads] == ["plan", "6.12.117", "6.1.192b"]


def bars(page, kind="tasks"):
    """Names of the rows that the first figure of a kind shows, by trace."""
    return page.execute_script(
        "const e = document.querySelector(`.plot[data-kind=${arguments[0]}]`);"
        "return Object.fromEntries(e.data.map((each) => [each.name, each.y]));", kind,
    )  # fmt: skip


def test_figures_hold_what_the_trace_says(page) -> None:
    drawn = bars(page)
    assert drawn["retry pass"] == ["task3[3]"]
    assert drawn["exit"] == ["task2[2]"]
    assert len(drawn["first pass"]) == 32
    marks = page.execute_script(
        "return document.querySelector('.plot[data-kind=tasks]').layout.shapes.map((s) => s.type)"
    )
    assert marks == ["rect", "rect", "rect", "line"]  # three passes, one signal
    curve = page.execute_script("return document.querySelector('.plot[data-kind=curve]').data[0].y")
    assert (curve[0], curve[-1]) == (34, 0)
    costs = page.execute_script(
        "return document.querySelector('.plot[data-kind=costs]').data.map((e) => [e.name, e.y])"
    )
    assert dict(costs) == {"running": [1], "sleeping": [2], "switched": [33]}
    assert {kind: len(rows) for kind, rows in bars(page, "lives").items()} == {"freed": 1, "left": 1}


def test_figures_that_are_folded_away_are_drawn_when_they_are_opened(page) -> None:
    others = page.find_element(By.CSS_SELECTOR, ".others")
    plots = others.find_elements(By.CSS_SELECTOR, ".plot")
    assert plots
    assert not others.find_elements(By.CSS_SELECTOR, ".main-svg")
    page.execute_script("arguments[0].open = true", others)
    WebDriverWait(page, 30).until(lambda it: it.execute_script(UNDRAWN) == 0)


def test_text_of_a_trace_stays_text(page) -> None:
    assert "<b>seen</b>" in "".join(texts(page, ".checks"))
    assert page.find_elements(By.CSS_SELECTOR, ".checks b") == []


def test_the_kernel_log_shows_the_canary(page) -> None:
    assert texts(page, "pre .canary")[0].endswith("canary livepatch-sample")


def test_the_comparison_with_the_base(page) -> None:
    changed = [texts(row, "td") for row in page.find_elements(By.CSS_SELECTOR, ".compared .changed")]
    assert ["passes", "1 + 1", "3 + 1"] in changed
    assert "verdict" not in {fact for fact, *_ in changed}
    assert len(page.find_elements(By.CSS_SELECTOR, ".compared")) == 1  # the base is not beside itself


def shown_rows(page):
    return [
        row.get_attribute("data-task")
        for row in page.find_elements(By.CSS_SELECTOR, "table.tasks tr[data-task]:not([hidden])")
    ]


def test_filters(page) -> None:
    whole = len(shown_rows(page))
    Select(page.find_element(By.ID, "filter-path")).select_by_visible_text("exit")
    assert set(shown_rows(page)) == {"task2[2]"}
    assert list(bars(page)) == ["exit"]
    assert texts(page, "#shown")[0].startswith(f"{len(shown_rows(page))} of {whole} ")
    Select(page.find_element(By.ID, "filter-path")).select_by_visible_text("all")
    field = page.find_element(By.ID, "filter-task")
    field.send_keys("TASK3[")
    assert set(shown_rows(page)) == {"task3[3]"}
    assert [row.get_attribute("data-task") for row in page.find_elements(
        By.CSS_SELECTOR, ".stragglers tbody tr:not([hidden])")] == ["task3[3]"]  # fmt: skip
    field.clear()
    field.send_keys(" ", Keys.BACKSPACE)
    assert len(shown_rows(page)) == whole
    assert texts(page, "#shown") == [""]


def test_the_filter_of_plans_hides_the_others(page) -> None:
    page.execute_script("document.querySelector('article').dataset.plan = 'another'")
    Select(page.find_element(By.ID, "filter-plan")).select_by_visible_text("livepatch-sample")
    assert [each.is_displayed() for each in page.find_elements(By.TAG_NAME, "article")] == [False, True]
    assert not page.find_element(By.CSS_SELECTOR, ".others").is_displayed()
    assert page.get_log("browser") == []


def test_by_keyboard(page) -> None:
    def focused():
        return page.switch_to.active_element

    page.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    assert focused().text == "Skip to the verdicts"
    for _ in range(3):
        focused().send_keys(Keys.TAB)
    assert focused().get_attribute("id") == "filter-plan"
    reached = set()
    for _ in range(60):
        focused().send_keys(Keys.TAB)
        reached.add(focused().tag_name)
    assert {"input", "select", "a", "summary", "div"} <= reached
    details = page.find_element(By.ID, "rules")
    details.find_element(By.TAG_NAME, "summary").send_keys(Keys.ENTER)
    assert details.get_attribute("open")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(page, scheme) -> None:
    shape(page, scheme=scheme, height=12_000)
    told = page.execute_script("""
        const style = (e) => getComputedStyle(e);
        const back = style(document.body).backgroundColor;
        return [...document.querySelectorAll("p, th, td, dt, dd, h5, .verdict, a, summary, label")]
          .map((e) => [e.tagName + "." + e.className, style(e).color, back]);""")
    poor = [each for each in told if contrast(each[1], each[2]) < 4.5]
    assert told
    assert poor == []
    font = page.execute_script("return document.querySelector('.plot').layout.font.color")
    WebDriverWait(page, 10).until(
        lambda it: contrast(
            rgb(it.execute_script("return document.querySelector('.plot').layout.font.color")), told[0][2]
        ) > 7
    )  # fmt: skip
    assert font


def rgb(colour):
    return "rgb({}, {}, {})".format(*(int(colour[at : at + 2], 16) for at in (1, 3, 5)))


def contrast(one, other):
    """Return the ratio of WCAG 2."""

    def luminance(colour):
        parts = [int(each) / 255 for each in re.findall(r"\d+", colour)[:3]]
        linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_on_a_phone(driver, folder) -> None:
    shape(driver, PHONE)
    driver.get((folder / "page.html").as_uri())
    ready(driver)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= PHONE[0]
    assert driver.find_element(By.ID, "filter-task").is_displayed()
    for each in driver.find_elements(By.CSS_SELECTOR, "#filters select, #filters input"):
        assert each.size["height"] >= 30


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
    assert not (tmp_path / "report.html").exists()
