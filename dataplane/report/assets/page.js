// Draws the charts of the page with ECharts. A chart is what dataplane/report/chart.py says it is; nothing here knows
// of runs. Every figure is in the page: nothing is fetched. Names from files are only ever set as text.
(function () {
  "use strict";

  const charts = JSON.parse(document.getElementById("charts").textContent);
  const root = document.documentElement;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const touch = window.matchMedia("(pointer: coarse)").matches;
  const PAPER_WIDTH = 660;
  const DAY = 86400000;
  const TIMES = {
    year: "{d} {MMM} {yyyy}", month: "{d} {MMM} {yyyy}", day: "{d} {MMM}", hour: "{HH}:{mm}", minute: "{HH}:{mm}",
    second: "{HH}:{mm}:{ss}", millisecond: "{HH}:{mm}:{ss}.{SSS}", none: "{HH}:{mm}:{ss}.{SSS}",
  };
  const MOST_WORDS = 8; // marks of one chart whose words have room
  const SLIDER_FROM = 12; // intervals that are seen well without zooming in

  const full = new Intl.NumberFormat("en", { maximumFractionDigits: 3 });
  const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
  const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
  const brief = (value) => (Math.abs(value) < 1e6 ? whole : compact).format(value);
  const withUnit = (value, unit) =>
    value === null || value === undefined ? "no figure" : full.format(value) + (unit === "%" ? " %" : " " + unit);
  const stamp = (ms, width) => {
    const text = new Date(ms).toISOString().replace("T", " ").replace("Z", "");
    return width >= 60000 ? text.slice(0, 16) : width >= 1000 ? text.slice(0, 19) : text;
  };

  function palette() {
    const css = window.getComputedStyle(root);
    const of = (name) => css.getPropertyValue("--" + name).trim();
    return {
      ink: of("ink"),
      muted: of("muted"),
      line: of("line"),
      surface: of("surface"),
      marks: { failure: of("bad"), alert: of("alert"), event: of("muted") },
      series: [1, 2, 3, 4, 5, 6, 7, 8].map((number) => of("series-" + number)),
      heat: [0, 1, 2, 3, 4].map((number) => of("heat-" + number)),
    };
  }

  // --- what a reader is told at a place of a chart --------------------------------------------------------------

  function told(chart, at) {
    if (chart.kind === "steps") {
      const lines = chart.series.map((series) => [series.name, withUnit(series.values[at], chart.unit)]);
      const within = ({ time }) => Math.min(Math.floor((time - chart.start) / chart.width), chart.count - 1) === at;
      for (const mark of chart.marks.filter(within)) lines.push([mark.text, stamp(mark.time, 1).slice(11)]);
      return [stamp(chart.start + at * chart.width, chart.width) + " UTC, " + chart.each, lines];
    }
    if (chart.kind === "bars") {
      return [chart.labels[at], chart.series.map((each) => [each.name, withUnit(each.values[at], chart.unit)])];
    }
    if (isPanels(chart)) return panels.told(chart, at);
    const row = Math.floor(at / chart.columns.length);
    const column = at % chart.columns.length;
    return [chart.columns[column], [[chart.rows[row], withUnit(chart.values[row][column], chart.unit)]]];
  }

  function tip(chart, at) {
    const [title, lines] = told(chart, at);
    const box = document.createElement("div");
    const add = (parent, kind, text, name) => {
      const made = document.createElement(kind);
      made.textContent = text;
      made.className = name;
      parent.appendChild(made);
      return made;
    };
    add(box, "div", title, "tip-title");
    for (const [name, value] of lines) {
      const line = add(box, "div", "", "tip-line");
      add(line, "span", name, "tip-name");
      add(line, "span", value, "tip-value");
    }
    return box;
  }

  const isPanels = (chart) => chart.kind === "cells" || chart.kind === "lines";
  const places = (chart) =>
    isPanels(chart) ? panels.shape(chart).count : chart.kind === "steps" ? chart.count
      : chart.kind === "bars" ? chart.labels.length : chart.rows.length * chart.columns.length;

  // --- options --------------------------------------------------------------------------------------------------

  // A value holds for its interval: from its start, where the next begins or where there is no figure, a new point.
  function steps(chart, values) {
    const points = [];
    values.forEach((value, at) => {
      if (value === null) return;
      points.push([chart.start + at * chart.width, value]);
      if (at + 1 === values.length || values[at + 1] === null) {
        const end = chart.start + (at + 1) * chart.width;
        points.push([end, value], [end, null]);
      }
    });
    return points;
  }

  function base(chart, colours) {
    return {
      useUTC: true,
      animation: false,
      textStyle: { fontFamily: window.getComputedStyle(document.body).fontFamily, color: colours.ink },
      color: colours.series,
      tooltip: {
        confine: true,
        backgroundColor: colours.surface,
        borderColor: colours.line,
        textStyle: { color: colours.ink, fontSize: 13 },
      },
    };
  }

  const axisStyle = (colours) => ({
    axisLine: { lineStyle: { color: colours.line } },
    axisTick: { lineStyle: { color: colours.line } },
    axisLabel: { color: colours.muted, hideOverlap: true },
    splitLine: { lineStyle: { color: colours.line, opacity: 0.6 } },
    nameTextStyle: { color: colours.muted },
  });

  function zoom(count, colours) {
    if (count <= SLIDER_FROM) return [];
    const slider = {
      type: "slider", height: 20, bottom: 8, brushSelect: false, showDetail: false,
      borderColor: colours.line, textStyle: { color: colours.muted }, filterMode: "none",
    };
    // With a wheel, Ctrl zooms: a wheel alone scrolls the page. A finger scrolls it too and has the slider.
    const inside = { type: "inside", zoomOnMouseWheel: "ctrl", moveOnMouseWheel: false, filterMode: "none" };
    return touch ? [slider] : [slider, inside];
  }

  // Moments as upright lines with their words along them, limits as level ones.
  function markLine(chart, colours) {
    if (!chart.marks.length && !chart.limits.length) return undefined;
    const short = (text) => (text.length > 40 ? text.slice(0, 39) + "…" : text);
    const words = chart.marks.length <= MOST_WORDS;
    const upright = chart.marks.map(({ time, text, kind }) => {
      const right = time - chart.start < 0.04 * chart.width * chart.count; // where there is no room on the left
      return {
        xAxis: time, name: short(text), lineStyle: { color: colours.marks[kind] },
        label: {
          show: words || kind !== "event", color: colours.marks[kind], position: right ? "insideEndBottom" : "insideEndTop",
        },
      };
    });
    const level = chart.limits.map(({ value, text }) => ({
      yAxis: value, name: text, lineStyle: { color: colours.marks.alert, type: "dashed", width: 1 },
      label: { color: colours.marks.alert, position: "insideStartTop" },
    }));
    return {
      silent: true, symbol: "none", lineStyle: { type: "dotted", width: 2 },
      label: { formatter: "{b}", textBorderColor: colours.surface, textBorderWidth: 3 },
      data: [...upright, ...level],
    };
  }

  const legendStyle = (colours) => ({
    type: "scroll", top: 0, left: 0, textStyle: { color: colours.ink }, pageTextStyle: { color: colours.muted },
    pageIconColor: colours.ink, pageIconInactiveColor: colours.line,
  });

  function legend(chart, colours) {
    if (chart.series.length < 2 && !chart.stacked) return undefined;
    return legendStyle(colours);
  }

  function stepsOption({ chart }, colours, pointed) {
    const option = base(chart, colours);
    const style = axisStyle(colours);
    const zooms = zoom(chart.count, colours);
    option.tooltip.trigger = "axis";
    option.tooltip.axisPointer = { type: "line", snap: false, lineStyle: { color: colours.muted } };
    // ECharts names the nearest point, which in the second half of an interval is the next one's.
    option.tooltip.formatter = () => {
      const at = Math.floor((pointed() - chart.start) / chart.width);
      return tip(chart, Math.min(Math.max(at, 0), chart.count - 1));
    };
    option.legend = legend(chart, colours);
    option.grid = { left: 8, right: 20, top: option.legend ? 34 : 12, bottom: zooms.length ? 44 : 12, containLabel: true };
    option.xAxis = {
      type: "time", min: chart.start, max: chart.start + chart.count * chart.width, ...style,
      splitLine: { show: false }, axisLabel: { ...style.axisLabel, formatter: TIMES },
    };
    option.yAxis = {
      type: "value", min: 0, max: chart.top, minInterval: chart.unit === "%" ? 0 : 1, ...style,
      axisLabel: { ...style.axisLabel, formatter: (value) => compact.format(value) + (chart.unit === "%" ? " %" : "") },
    };
    option.dataZoom = zooms;
    option.series = chart.series.map((series, number) => ({
      name: series.name,
      type: "line",
      step: "end",
      symbol: "none",
      stack: chart.stacked ? "all" : undefined,
      lineStyle: { width: chart.stacked ? 0.5 : 2, type: series.dashed ? "dashed" : "solid" },
      areaStyle: chart.stacked ? { opacity: 0.75 } : undefined,
      data: steps(chart, series.values),
      markLine: number ? undefined : markLine(chart, colours),
    }));
    return option;
  }

  function barsOption({ chart }, colours) {
    const option = base(chart, colours);
    const style = axisStyle(colours);
    option.tooltip.trigger = "axis";
    option.tooltip.axisPointer = { type: "shadow" };
    option.tooltip.formatter = (found) => tip(chart, found[0].dataIndex);
    option.legend = legend(chart, colours);
    option.grid = { left: 8, right: 72, top: option.legend ? 36 : 8, bottom: 8, containLabel: true };
    option.xAxis = {
      type: "value", min: 0, minInterval: 1, ...style,
      axisLabel: { ...style.axisLabel, formatter: (value) => compact.format(value) },
    };
    option.yAxis = {
      type: "category", inverse: true, data: chart.labels, ...style, splitLine: { show: false },
      axisLabel: { color: colours.ink, width: 150, overflow: "truncate" },
    };
    option.series = chart.series.map((series) => ({
      name: series.name,
      type: "bar",
      barMaxWidth: 22,
      data: series.values,
      label: { show: true, position: "right", color: colours.ink, formatter: (bar) => brief(bar.value) },
    }));
    return option;
  }

  function heatOption({ chart }, colours) {
    const option = base(chart, colours);
    const style = axisStyle(colours);
    const zooms = zoom(chart.columns.length, colours);
    const long = chart.width * chart.count > DAY;
    const time = (text) => (chart.width >= DAY ? text.slice(0, 10) : text.slice(long ? 5 : 11, chart.width < 60000 ? 99 : 16));
    option.tooltip.formatter = (cell) => tip(chart, cell.dataIndex);
    option.grid = { left: 8, right: 20, top: 48, bottom: zooms.length ? 44 : 8, containLabel: true };
    option.xAxis = {
      type: "category", data: chart.columns, ...style, splitLine: { show: false },
      axisLabel: { ...style.axisLabel, formatter: (text) => (chart.start === undefined ? text : time(text)) },
    };
    option.yAxis = { type: "category", data: chart.rows, ...style, splitLine: { show: false } };
    option.yAxis.axisLabel = { ...style.axisLabel, width: 150, overflow: "truncate", interval: chart.rows.length > 16 ? 1 : 0 };
    option.visualMap = {
      type: "continuous", min: 0, max: chart.top, calculable: true, orient: "horizontal", left: 0, top: 0,
      itemWidth: 12, itemHeight: 120, textStyle: { color: colours.ink }, inRange: { color: colours.heat },
      formatter: (value) => withUnit(Math.round(value * 100) / 100, chart.unit),
    };
    option.dataZoom = zooms;
    option.series = [{
      type: "heatmap",
      progressive: 0,
      data: chart.values.flatMap((row, y) => row.map((value, x) => [x, y, value])),
      emphasis: { itemStyle: { borderColor: colours.ink, borderWidth: 1 } },
    }];
    return option;
  }

  function panelsOption({ chart, box }, colours) {
    const width = root.classList.contains("paper") ? PAPER_WIDTH : box.clientWidth;
    const tools = { colours, style: axisStyle(colours), legend: legendStyle(colours), full, compact, tip };
    return panels.option(chart, base(chart, colours), width, tools);
  }

  const option = (one, colours) =>
    ({ steps: stepsOption, bars: barsOption, heat: heatOption, cells: panelsOption, lines: panelsOption })[one.chart.kind](one, colours, () =>
      one.instance.convertFromPixel({ xAxisIndex: 0 }, one.x));

  function height(chart, width) {
    if (isPanels(chart)) return panels.height(chart, width);
    if (chart.kind === "steps") return 300;
    if (chart.kind === "heat") return Math.min(440, 120 + chart.rows.length * 22);
    return 70 + chart.labels.length * (chart.series.length > 1 ? 44 : 30);
  }

  // --- drawing --------------------------------------------------------------------------------------------------

  const drawn = charts.map((chart) => {
    const box = document.getElementById("chart-" + chart.key);
    box.style.height = height(chart, box.clientWidth) + "px";
    const instance = window.echarts.init(box, null, { renderer: "svg" }); // sharp on paper
    const one = { chart, box, instance, at: -1, x: 0 }; // the place that keys have reached, the pixel pointed at
    for (const event of ["mousemove", "click"]) instance.getZr().on(event, ({ offsetX }) => { one.x = offsetX; });
    return one;
  });

  function draw() {
    const paper = root.classList.contains("paper");
    const colours = palette();
    for (const one of drawn) {
      const { chart, box, instance } = one;
      const shrink = paper && !isPanels(chart) ? 0.75 : 1;
      box.style.height = height(chart, paper ? PAPER_WIDTH : box.clientWidth) * shrink + "px";
      instance.resize({ width: paper ? PAPER_WIDTH : "auto" });
      const options = option(one, colours);
      if (paper && !isPanels(chart)) {
        options.dataZoom = [];
        options.grid.bottom = 8;
      }
      instance.setOption(options, { notMerge: true });
    }
  }

  // --- keys -----------------------------------------------------------------------------------------------------

  const voice = document.getElementById("voice");

  function show(one) {
    const { chart, instance, at, box } = one;
    const [title, lines] = told(chart, at);
    if (chart.kind === "steps") {
      one.x = instance.convertToPixel({ xAxisIndex: 0 }, chart.start + (at + 0.5) * chart.width);
      instance.dispatchAction({ type: "showTip", x: one.x, y: box.clientHeight / 2 });
    } else {
      instance.dispatchAction({ type: "showTip", ...(isPanels(chart) ? panels.item(chart, at) : { seriesIndex: 0, dataIndex: at }) });
    }
    voice.textContent = title + ": " + lines.map((line) => line.join(" ")).join(", ");
  }

  function magnify(one, factor) {
    const { chart, instance, at } = one;
    if (chart.kind === "bars" || isPanels(chart)) return;
    const count = chart.kind === "steps" ? chart.count : chart.columns.length;
    if (count <= SLIDER_FROM) return;
    const { start, end } = instance.getOption().dataZoom[0];
    const place = chart.kind === "steps" ? at : at % count;
    const middle = place < 0 ? (start + end) / 2 : (100 * (place + 0.5)) / count;
    const half = Math.min(50, Math.max(0.5, ((end - start) * factor) / 2));
    const from = Math.min(Math.max(0, middle - half), 100 - 2 * half);
    instance.dispatchAction({ type: "dataZoom", start: from, end: from + 2 * half });
    voice.textContent = "showing " + full.format(2 * half) + " % of the time";
  }

  function key(one, event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { chart, instance } = one;
    const last = places(chart) - 1;
    const row = "columns" in chart ? chart.columns.length : 1;
    const up = chart.kind === "heat" || chart.kind === "cells" ? row : -row;
    const moves = {
      ArrowRight: 1, ArrowLeft: -1, ArrowUp: up, ArrowDown: -up, Home: -Infinity, End: Infinity,
    };
    if (event.key in moves) {
      const to = one.at < 0 && moves[event.key] !== Infinity ? 0 : one.at + moves[event.key];
      if (row > 1 && (to < 0 || to > last) && Number.isFinite(to)) {
        event.preventDefault();
        return; // the edge of the map
      }
      one.at = Math.min(Math.max(to, 0), last);
      show(one);
    } else if (event.key === "+" || event.key === "=") {
      magnify(one, 0.5);
    } else if (event.key === "-") {
      magnify(one, 2);
    } else if (event.key === "Escape") {
      one.at = -1;
      instance.dispatchAction({ type: "hideTip" });
    } else {
      return;
    }
    event.preventDefault();
  }

  for (const one of drawn) {
    one.box.addEventListener("keydown", (event) => key(one, event));
    one.box.addEventListener("blur", () => one.instance.dispatchAction({ type: "hideTip" }));
  }

  // --- the page's colours and size ------------------------------------------------------------------------------

  draw();
  dark.addEventListener("change", () => draw());
  const watch = new window.ResizeObserver((changes) => {
    if (root.classList.contains("paper")) return;
    const boxes = new Set(changes.map((change) => change.target));
    for (const one of drawn.filter(({ box }) => boxes.has(box))) {
      const { chart, box, instance } = one;
      if (isPanels(chart)) box.style.height = height(chart, box.clientWidth) + "px";
      instance.resize({ width: "auto" });
      if (isPanels(chart)) instance.setOption(option(one, palette()), { notMerge: true }); // more or fewer side by side
    }
  });
  drawn.forEach(({ box }) => watch.observe(box));
  window.addEventListener("beforeprint", () => {
    root.classList.add("paper");
    draw();
  });
  window.addEventListener("afterprint", () => {
    root.classList.remove("paper");
    draw();
  });
  root.dataset.drawn = String(drawn.length);
})();
