// SPDX-License-Identifier: Apache-2.0
// Filters, and opens what a link leads into. The page can be read without it.
"use strict";
(() => {
  const rest = document.getElementById("rest");
  const filters = ["plan", "verdict", "task", "path"]
    .map((name) => document.getElementById("filter-" + name)).filter((each) => each);
  const value = (name) => (document.getElementById("filter-" + name)?.value || "").trim();

  function open(element) {
    for (let each = element; each; each = each.parentElement?.closest("details")) {
      if (each.tagName === "DETAILS") { each.open = true; }
    }
  }

  function reach() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target && rest.contains(target)) {
      open(target);
      target.scrollIntoView();
    }
  }

  function filterPlans() {
    const [plan, verdict] = [value("plan"), value("verdict")];
    for (const each of document.querySelectorAll("[data-plan]")) {
      // A row of a matrix stays as long as one of its cells has the verdict.
      const own = [each, ...each.querySelectorAll("td[data-verdict]")].map((it) => it.dataset.verdict);
      const verdicts = own.filter((it) => it);
      each.hidden = (Boolean(plan) && each.dataset.plan !== plan) ||
        (Boolean(verdict) && verdicts.length > 0 && !verdicts.includes(verdict));
    }
    for (const each of rest.querySelectorAll(".run > .others, .run > .lifetimes")) { each.hidden = Boolean(plan); }
  }

  // A lane stays as long as one of its tasks has the name; one that is found is opened to be seen.
  function filterTasks() {
    const [task, path] = [value("task").toLowerCase(), value("path")];
    let [shown, all] = [0, 0];
    for (const lane of rest.querySelectorAll(".transition .lane")) {
      lane.hidden = !lane.dataset.task.toLowerCase().includes(task) || (Boolean(path) && lane.dataset.path !== path);
      if (lane.parentElement.closest("[hidden]")) { continue; }
      all += 1;
      if (!lane.hidden) {
        shown += 1;
        if (task || path) { open(lane); }
      }
    }
    document.getElementById("shown").textContent =
      filters.some((each) => each.value) ? `${shown} of ${all} rows of tasks shown` : "";
  }

  function filter() {
    filterPlans();
    filterTasks();
  }

  for (const each of filters) {
    each.addEventListener(each.tagName === "SELECT" ? "change" : "input", filter);
  }
  addEventListener("hashchange", reach);
  // A second click on a link changes no hash.
  document.addEventListener("click", (event) => {
    if (event.target.closest("a[href^='#']")?.hash === location.hash) { reach(); }
  });
  reach();
  document.documentElement.dataset.ready = "yes";
})();
