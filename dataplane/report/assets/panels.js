// Small multiples with ECharts: heat maps ("cells") and lines, as dataplane/report/panels.py says they are.
// page.js, which follows in the same script, gives colours, styles and formats, and draws what `option` returns.
const panels = (function () {
  "use strict";

  const WIDE = 320; // pixels that a panel should have at least
  const ROOM = { cells: 62, lines: 62 }; // above and below the plot of a panel
  const HEAD = 44; // the legend or the colours' scale, above all panels

  const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

  function across(chart, width) {
    const count = chart.panels.length;
    const most = Math.max(1, Math.min(count, Math.floor(width / WIDE)));
    return Math.ceil(count / Math.ceil(count / most)); // four panels are two by two, not three and one
  }
  const plot = (chart) =>
    chart.kind === "lines" ? 170 : Math.max(60, Math.min(320, chart.panels[0].rows.length * 34));
  const height = (chart, width) =>
    HEAD + Math.ceil(chart.panels.length / across(chart, width)) * (plot(chart) + ROOM[chart.kind]);

  const shape = (chart) => {
    const columns = chart.columns.length;
    const rows = chart.panels[0].rows.length;
    return { columns, rows, count: chart.panels.length * rows * columns };
  };

  // Places are numbered panel by panel, row by row: what is at one of them.
  function find(chart, at) {
    const { columns, rows } = shape(chart);
    const panel = chart.panels[Math.floor(at / (rows * columns))];
    const row = panel.rows[Math.floor(at / columns) % rows];
    return { panel, row, column: at % columns };
  }

  function told(chart, at) {
    const { panel, row, column } = find(chart, at);
    const where = [chart.rowsTitle ? chart.rowsTitle + " " + row.name : "", panel.title].filter((text) => text).join(", ");
    return [chart.axis + " " + chart.columns[column], [[where || row.name, row.texts[column]]]];
  }

  // The series and the item that show a place.
  function item(chart, at) {
    const { columns, rows } = shape(chart);
    if (chart.kind === "cells") return { seriesIndex: Math.floor(at / (rows * columns)), dataIndex: at % (rows * columns) };
    return { seriesIndex: Math.floor(at / columns), dataIndex: at % columns };
  }

  function place(chart, seriesIndex, dataIndex) {
    const { columns, rows } = shape(chart);
    return chart.kind === "cells" ? seriesIndex * rows * columns + dataIndex : seriesIndex * columns + dataIndex;
  }

  function frame(chart, option, style, colours, width, full) {
    const count = across(chart, width);
    const each = width / count;
    option.title = [];
    option.grid = [];
    option.xAxis = [];
    option.yAxis = [];
    chart.panels.forEach((panel, number) => {
      const left = (number % count) * each;
      const top = HEAD + Math.floor(number / count) * (plot(chart) + ROOM[chart.kind]);
      option.title.push({ text: panel.title, left: left + 8, top, textStyle: { color: colours.ink, fontSize: 13 } });
      option.grid.push({ left: left + 8, top: top + 22, width: each - 32, height: plot(chart), containLabel: true });
      const name = { name: chart.axis, nameLocation: "middle", nameGap: 22, gridIndex: number };
      const continuous = chart.kind === "lines" && chart.positions;
      option.xAxis.push(continuous
        ? { type: "value", ...style, ...name, min: chart.positions[0], max: chart.positions[chart.positions.length - 1],
          splitLine: { show: false }, axisTick: { ...style.axisTick, customValues: chart.positions },
          axisLabel: { ...style.axisLabel, customValues: chart.positions,
            formatter: (value) => chart.columns[chart.positions.indexOf(value)] ?? full.format(value) } }
        : { type: "category", data: chart.columns, ...style, ...name, splitLine: { show: false } });
      const rows = { gridIndex: number, ...style };
      option.yAxis.push(chart.kind === "lines"
        ? { type: "value", max: chart.unit === "%" ? chart.top : undefined, ...rows }
        : { type: "category", data: panel.rows.map((row) => row.name), splitLine: { show: false }, ...rows,
          axisLabel: { ...style.axisLabel, width: 130, overflow: "truncate",
            formatter: (name) => (chart.rowsTitle.length > 12 ? name : chart.rowsTitle + " " + name) } });
    });
  }

  function cells(chart, option, colours, format) {
    const beyond = chart.top + Math.max(1, chart.top - chart.bottom); // where there is no figure: out of the scale
    option.visualMap = {
      type: "continuous", min: chart.bottom, max: chart.top, calculable: false, orient: "horizontal", left: 0, top: 0,
      itemWidth: 12, itemHeight: 120, textStyle: { color: colours.ink },
      inRange: { color: chart.lowIsBad ? [...colours.heat].reverse() : colours.heat },
      outOfRange: { color: colours.surface }, text: [format(chart.top, chart.unit), format(chart.bottom, chart.unit)],
    };
    option.series = chart.panels.map((panel, number) => ({
      type: "heatmap", xAxisIndex: number, yAxisIndex: number, progressive: 0,
      data: panel.rows.flatMap((row, y) => row.values.map((value, x) => [x, y, value === null ? beyond : value])),
      itemStyle: { borderColor: colours.line, borderWidth: 1 },
      label: {
        show: chart.columns.length <= 12, color: colours.ink, backgroundColor: colours.surface, borderRadius: 3,
        lineHeight: 15, padding: [0, 4],
        formatter: ({ dataIndex }) => {
          const { row, column } = find(chart, place(chart, number, dataIndex));
          return row.values[column] === null ? row.texts[column] : short.format(row.values[column]);
        },
      },
      emphasis: { itemStyle: { borderColor: colours.ink, borderWidth: 2 } },
    }));
  }

  function lines(chart, option, colours) {
    const under = (panel, index) => panel.rows.length - 1 - index; // lines below others are wider, so that all are seen
    const x = (column) => (chart.positions ? chart.positions[column] : column);
    option.series = chart.panels.flatMap((panel, number) => panel.rows.map((row, index) => ({
      type: "line", name: row.name, xAxisIndex: number, yAxisIndex: number, symbol: "circle",
      symbolSize: 7 + 2 * under(panel, index),
      color: colours.series[index], connectNulls: false, showAllSymbol: true,
      lineStyle: { width: chart.positions ? 2 + 1.5 * under(panel, index) : 0 },
      data: row.values.map((value, column) => [x(column), value]),
    })));
    chart.panels.forEach((panel, number) => panel.rows.forEach((row, index) => {
      if (!row.low) return;
      option.series.push({
        type: "custom", name: row.name, xAxisIndex: number, yAxisIndex: number, silent: true,
        data: row.low.map((low, column) => [x(column), low, row.high[column]]).filter(([, low]) => low !== null),
        renderItem: (params, api) => {
          const [at, bottom] = api.coord([api.value(0), api.value(1)]);
          const top = api.coord([api.value(0), api.value(2)])[1];
          const line = (x1, y1, x2, y2) => ({ type: "line", shape: { x1, y1, x2, y2 },
            style: { stroke: colours.series[index], lineWidth: 1.5 } });
          const children = [line(at, bottom, at, top), line(at - 4, bottom, at + 4, bottom), line(at - 4, top, at + 4, top)];
          return { type: "group", children };
        },
      });
    }));
  }

  function option(chart, made, width, { colours, style, legend, full, compact, tip }) {
    frame(chart, made, style, colours, width, full);
    made.tooltip.trigger = "item";
    made.tooltip.formatter = ({ seriesIndex, dataIndex }) => tip(chart, place(chart, seriesIndex, dataIndex));
    if (chart.kind === "cells") {
      cells(chart, made, colours, (value, unit) => full.format(value) + (unit ? " " + unit : ""));
      return made;
    }
    lines(chart, made, colours);
    for (const axis of made.yAxis) {
      axis.axisLabel = { ...axis.axisLabel, formatter: (value) => compact.format(value) + " " + chart.unit };
    }
    made.legend = { ...legend, formatter: (name) => (chart.rowsTitle ? chart.rowsTitle + " " + name : name) };
    return made;
  }

  return { height, item, option, shape, told };
})();
