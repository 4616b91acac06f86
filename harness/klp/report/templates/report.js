// SPDX-License-Identifier: Apache-2.0
// Unpacks plotly.js, draws each figure when it comes into sight, and filters.
"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  // Colours that stay apart for colour-blind eyes (Okabe and Ito), on light and dark alike.
  const colours = {
    "first pass": "#56b4e9", "retry pass": "#e69f00", "exit": "#009e73", "idle": "#8a8f98",
    "scheduler": "#cc79a7", "force": "#d55e00", "offline": "#a6761d", "fork": "#0072b2",
    "ended": "#6b7280", "already": "#b2b8bf", "left pending": "#e5484d",
    "switched": "#009e73", "sleeping": "#e69f00", "running": "#cc79a7", "unreliable": "#d55e00",
    "refused": "#e5484d", "freed": "#56b4e9", "left": "#e5484d",
  };
  const filters = ["plan", "verdict", "task", "path"].map((name) => document.getElementById("filter-" + name));
  const [plan, verdict, task, path] = filters;
  const drawn = new Set();
  const config = { displayModeBar: false, responsive: true, scrollZoom: false };

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const fits = (label, kind) =>
    (!path.value || kind === path.value) &&
    label.toLowerCase().includes(task.value.trim().toLowerCase());

  function layout(extra) {
    const axis = { gridcolor: css("--grid"), zerolinecolor: css("--line"), linecolor: css("--line"),
      automargin: true, fixedrange: true };
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: false,
      font: { color: css("--ink"), family: "system-ui, sans-serif", size: 12 },
      hoverlabel: { bgcolor: css("--card"), bordercolor: css("--line"), font: { color: css("--ink") } },
      margin: { l: 8, r: 12, t: 28, b: 8 }, bargap: 0.2, height: extra.height || 240,
      legend: { orientation: "h", y: 1, yanchor: "bottom", x: 0 }, showlegend: extra.showlegend !== false,
      barmode: extra.barmode || "overlay", shapes: extra.shapes || [], annotations: extra.annotations || [],
      xaxis: { ...axis, ...extra.xaxis }, yaxis: { ...axis, ...extra.yaxis },
    };
  }

  // Bars from begin to end, a row each, in one trace for each kind so that the legend tells them.
  function bars(list, words) {
    return [...new Set(list.map((each) => each.kind))].map((kind) => {
      const own = list.filter((each) => each.kind === kind);
      return {
        type: "bar", orientation: "h", name: kind, y: own.map((each) => each.label),
        base: own.map((each) => each.begin_s), x: own.map((each) => each.end_s - each.begin_s),
        // A line of the same colour: a bar of a microsecond is still seen.
        marker: { color: colours[kind], line: { color: colours[kind], width: 2 } },
        customdata: own.map((each) => [each.end_s, each.words]),
        hovertemplate: `%{y}: ${words} %{customdata[0]:.6f} s<br>%{customdata[1]}<extra>${kind}</extra>`,
      };
    });
  }

  function rows(list) {
    const labels = list.map((each) => each.label);
    return { categoryorder: "array", categoryarray: labels.reverse(), dtick: 1, type: "category",
      tickfont: { size: 11 }, range: [-0.5, Math.max(labels.length, 1) - 0.5] };
  }

  function marks(figure) {
    const shapes = figure.passes.map((each) => ({
      type: "rect", xref: "x", yref: "paper", y0: 0, y1: 1, layer: "below",
      x0: each.begin_s, x1: each.begin_s + each.duration_s, fillcolor: css("--pass"),
      line: { color: css("--dim"), width: 1.5, dash: "dot" },
    }));
    for (const at of figure.signals_s) {
      shapes.push({ type: "line", xref: "x", yref: "paper", x0: at, x1: at, y0: 0, y1: 1,
        line: { color: css("--violated"), width: 2, dash: "dash" } });
    }
    return shapes;
  }

  const kinds = {
    tasks(figure) {
      const list = figure.tasks.filter((each) => fits(each.label, each.kind));
      const annotations = figure.signals_s.map((at) => ({
        x: at, y: 1, xref: "x", yref: "paper", text: "signals", showarrow: false, xanchor: "left",
        yanchor: "top", font: { color: css("--violated") }, bgcolor: css("--page"), borderpad: 2,
      }));
      return [bars(list, "switched after"), layout({
        height: 90 + 16 * Math.max(list.length, 4), shapes: marks(figure), annotations,
        xaxis: { title: { text: "s (dotted: passes)" }, side: "bottom", rangemode: "tozero" },
        yaxis: rows(list),
      })];
    },
    curve(figure) {
      const [x, y] = [figure.curve.map((each) => each[0]), figure.curve.map((each) => each[1])];
      return [[{ type: "scatter", mode: "lines", x, y, line: { shape: "hv", color: "#e69f00", width: 2 },
        fill: "tozeroy", fillcolor: "rgba(230,159,0,0.15)", hovertemplate: "%{y} left at %{x:.6f} s<extra></extra>" }],
      layout({ shapes: marks(figure), showlegend: false,
        xaxis: { title: { text: "s (dotted: passes)" }, rangemode: "tozero" },
        yaxis: { rangemode: "tozero", title: { text: "tasks" } } })];
    },
    costs(figure) {
      const results = [...new Set(figure.costs.map((each) => each.result))];
      const lows = [...new Set(figure.costs.map((each) => each.low_ns))].sort((a, b) => a - b);
      const label = (low) => (low < 1000 ? low + " ns" : low < 1e6 ? low / 1000 + " µs" : low / 1e6 + " ms")
        .replace(/(\.\d)\d+/, "$1");
      const traces = results.map((result) => {
        const own = figure.costs.filter((each) => each.result === result);
        return { type: "bar", name: result, x: own.map((each) => label(each.low_ns)),
          y: own.map((each) => each.count), marker: { color: colours[result] },
          hovertemplate: "%{y} took %{x} or up to twice that<extra>" + result + "</extra>" };
      });
      return [traces, layout({ barmode: "stack", xaxis: { type: "category", categoryorder: "array",
        categoryarray: lows.map(label), title: { text: "from … to twice that" } },
        yaxis: { title: { text: "attempts" } } })];
    },
    lifetimes(figure) {
      const begin = Math.min(...figure.lifetimes.map((each) => each.begin_s));
      const end = Math.max(...figure.lifetimes.map((each) => each.end_s));
      const room = (end - begin || 1) / 50;
      return [bars(figure.lifetimes, "until"), layout({ height: 90 + 16 * Math.max(figure.lifetimes.length, 4),
        xaxis: { title: { text: "s of the trace" }, range: [begin - room, end + room] }, yaxis: rows(figure.lifetimes) })];
    },
  };

  function draw(element) {
    const [traces, wanted] = kinds[element.dataset.kind](figures[element.dataset.figure]);
    element.style.minHeight = wanted.height + "px";
    drawn.add(element);
    return Plotly.react(element, traces, wanted, config);
  }

  function redraw(some) {
    for (const element of drawn) {
      if (!element.closest("[hidden]") && (!some || element.dataset.kind === some)) { draw(element); }
    }
  }

  function filter() {
    for (const each of document.querySelectorAll("[data-plan]")) {
      // A row of a matrix stays as long as one of its cells has the verdict.
      const own = [each, ...each.querySelectorAll("td[data-verdict]")].map((it) => it.dataset.verdict);
      const verdicts = own.filter((it) => it);
      each.hidden = (Boolean(plan.value) && each.dataset.plan !== plan.value) ||
        (Boolean(verdict.value) && verdicts.length > 0 && !verdicts.includes(verdict.value));
    }
    for (const each of document.querySelectorAll("main > section > .others")) { each.hidden = Boolean(plan.value); }
    for (const row of document.querySelectorAll("tr[data-task]")) {
      row.hidden = !fits(row.dataset.task, row.dataset.path);
    }
    const seen = [...document.querySelectorAll("table.tasks tr[data-task]")]
      .filter((row) => !row.parentElement.closest("[hidden]"));
    const shown = seen.filter((row) => !row.hidden).length;
    document.getElementById("shown").textContent =
      filters.some((each) => each.value) ? `${shown} of ${seen.length} tasks shown` : "";
    redraw("tasks");
  }

  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }

  async function start() {
    const script = document.createElement("script");
    script.textContent = await unpack(document.getElementById("plotly").textContent.trim());
    document.head.append(script);
    const sight = new IntersectionObserver((entries) => {
      for (const each of entries.filter((entry) => entry.isIntersecting)) {
        sight.unobserve(each.target);
        draw(each.target);
      }
    }, { rootMargin: "400px" });
    for (const element of document.querySelectorAll(".plot")) { sight.observe(element); }
    for (const each of filters) {
      each.addEventListener(each.tagName === "SELECT" ? "change" : "input", filter);
    }
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraw());
    document.documentElement.dataset.ready = "yes";
  }
  start();
})();
