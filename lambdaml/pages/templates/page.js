"use strict";
// Draws the charts of a page, fills the tables below them when they are opened, sorts tables and shows all their rows.
const charts = JSON.parse(document.getElementById("charts").textContent);
const views = {};
const config = {
  background: null, font: "system-ui, sans-serif", view: { stroke: null },
  axis: { labelColor: "var(--soft)", titleColor: "var(--soft)", gridColor: "var(--line)", domainColor: "var(--line)",
    tickColor: "var(--line)", labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal", labelLimit: 130, tickCount: 5 },
  legend: { orient: "bottom", labelColor: "var(--ink)", titleColor: "var(--soft)", labelFontSize: 12, labelLimit: 260,
    symbolSize: 90, symbolStrokeWidth: 2 },
};

function records(chart) {
  return chart.rows.map(row => Object.fromEntries(chart.fields.map((name, place) => [name, row[place]])));
}

function onAxis(spec, choice) {
  const set = view => view.encoding && view.encoding.x
    ? { ...view, encoding: { ...view.encoding, x: choice.spec } } : view;
  return spec.layer ? { ...spec, layer: spec.layer.map(set) } : set(spec);
}

async function draw(figure) {
  const name = figure.dataset.chart, chart = charts[name], place = figure.querySelector(".drawing");
  const pick = figure.querySelector("select[data-across]");
  const spec = pick ? onAxis(chart.spec, chart.choices[pick.selectedIndex]) : chart.spec;
  const columns = Math.max(1, Math.floor(place.clientWidth / 170));
  const full = { ...spec, width: "container", autosize: { type: "fit-x", contains: "padding" },
    data: { name: "rows", values: records(chart) }, description: figure.dataset.about,
    config: { ...config, legend: { ...config.legend, columns } } };
  if (views[name]) views[name].finalize();
  views[name] = (await vegaEmbed(place, full, { actions: false, renderer: "svg", ast: false })).view;
  figure.dataset.drawn = chart.rows.length;
  if (figure.querySelector("[data-zoom]")) zoomable(figure, views[name]);
}

// A chart whose x axis lies between the signals `begin` and `end`: buttons and dragging change them.
function zoomable(figure, view) {
  const whole = [view.signal("begin"), view.signal("end")];
  const show = (begin, end) => {
    const least = (whole[1] - whole[0]) / 2000;
    begin = Math.max(whole[0], Math.min(begin, whole[1] - least));
    end = Math.min(whole[1], Math.max(end, begin + least));
    view.signal("begin", begin).signal("end", end).runAsync();
  };
  const moves = { in: [.25, -.25], out: [-.5, .5], left: [-.5, -.5], right: [.5, .5] };
  for (const button of figure.querySelectorAll("[data-zoom]")) {
    button.onclick = () => {
      const [begin, end] = [view.signal("begin"), view.signal("end")], by = moves[button.dataset.zoom];
      if (!by) show(...whole);
      else if (button.dataset.zoom === "left" && begin - (end - begin) / 2 < whole[0]) show(whole[0], whole[0] + end - begin);
      else if (button.dataset.zoom === "right" && end + (end - begin) / 2 > whole[1]) show(whole[1] - end + begin, whole[1]);
      else show(begin + by[0] * (end - begin), end + by[1] * (end - begin));
    };
  }
  let picked = null;
  view.addSignalListener("pick", (_, value) => { picked = Object.values(value)[0] || null; });
  view.addEventListener("pointerup", () => {
    if (!picked) return;
    const [begin, end] = picked.map(Number).sort((a, b) => a - b);
    view.data("pick_store", []);
    picked = null;
    if (end > begin) show(begin, end);
  });
}

function cell(value) {
  const element = document.createElement("td");
  if (typeof value !== "number") element.className = "text";
  element.textContent = value === null ? "" : typeof value === "number" ? Number(value.toPrecision(6)).toString() : value;
  return element;
}

function fill(details) {
  const chart = charts[details.closest("figure").dataset.chart], body = details.querySelector("tbody");
  if (body.childElementCount) return;
  const places = chart.columns.map(([name]) => chart.fields.indexOf(name));
  for (const row of chart.rows) {
    const line = document.createElement("tr");
    line.append(...places.map(place => cell(place < 0 ? null : row[place])));
    body.append(line);
  }
}

function sortable(table) {
  table.querySelectorAll("th button").forEach((button, _, all) => button.addEventListener("click", () => {
    const head = button.closest("th"), column = head.cellIndex, body = table.tBodies[0];
    const way = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    const key = row => { const text = row.cells[column].dataset.value ?? row.cells[column].textContent;
      return text === "" ? null : isNaN(text) ? text : Number(text); };
    const rows = [...body.rows].map(row => [key(row), row]);
    rows.sort(([a], [b]) => a === null ? 1 : b === null ? -1 : (a < b ? -way : a > b ? way : 0));
    all.forEach(other => other.closest("th").removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", way > 0 ? "ascending" : "descending");
    body.append(...rows.map(([, row]) => row));
    shorten(table);
  }));
}

// Tables with data-first show that many rows until their button is pressed.
function shorten(table) {
  const first = Number(table.dataset.first || Infinity), button = document.querySelector(`[data-all="${table.id}"]`);
  [...table.tBodies[0].rows].forEach((row, place) => { row.hidden = place >= first; });
  if (button) {
    button.hidden = table.tBodies[0].rows.length <= first;
    button.onclick = () => { table.dataset.first = ""; shorten(table); };
  }
}

async function begin() {
  document.querySelectorAll("table[data-first]").forEach(shorten);
  document.querySelectorAll("table").forEach(sortable);
  document.querySelectorAll("figure details").forEach(details => details.addEventListener("toggle", () => fill(details)));
  document.querySelectorAll("select[data-across]").forEach(pick => pick.addEventListener("change", () => draw(pick.closest("figure"))));
  for (const figure of document.querySelectorAll("figure[data-chart]")) await draw(figure);
  document.body.dataset.ready = "yes";
}
begin();
