"use strict";
(() => {
  const { profiles, colours, others } = JSON.parse(document.getElementById("data").textContent);
  const measured = Boolean(profiles[0].roof);
  const byId = (id) => document.getElementById(id);
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const series = (index) => css(`--series-${index % 6}`);
  const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;"); // for plotly's labels
  const fixed = (value, digits) => value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });

  const METRICS = {
    bflops: { title: "operations", unit: "BFLOPs", digits: 3 },
    moved: { title: "memory traffic", unit: "MB, fp32", digits: 2 },
    held: { title: "memory held", unit: "MB, fp32", digits: 2 },
    access: { title: "memory access cost", unit: "M values", digits: 2 },
    parameters: { title: "parameters", unit: "M", digits: 3 },
    intensity: { title: "arithmetic intensity", unit: "FLOP/byte, fp32", digits: 1 },
    ...(measured && {
      ms: { title: "time", unit: "ms", digits: 3 },
      rate: { title: "rate", unit: "GFLOP/s", digits: 1 },
      of_roof: { title: "share of the roof", unit: "%", digits: 0 },
    }),
  };
  const COLUMNS = [
    ["name", "layer", null],
    ["what", "what", null],
    ["output", "output", null],
    ["parameters", "M parameters", 3],
    ["bflops", "BFLOPs", 3],
    ["share", "share %", 1],
    ["moved", "MB moved", 2],
    ["held", "MB held", 2],
    ["intensity", "FLOP/byte", 1],
    ...(measured ? [["ms", "ms", 3], ["rate", "GFLOP/s", 1], ["bandwidth", "GB/s", 1], ["of_roof", "of roof %", 0]] : []),
  ];
  const CONFIG = { responsive: true, displayModeBar: false };

  let metric = "bflops";
  let order = { key: null, down: true };

  const layout = (more) => ({
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, sans-serif", size: 12, color: css("--ink") },
    margin: { l: 62, r: 18, t: 14, b: 44 },
    hoverlabel: { bgcolor: css("--card"), bordercolor: css("--line"), font: { color: css("--ink") }, align: "left" },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 12 } },
    ...more,
  });
  const axis = (title, more) => ({
    title: { text: title, font: { size: 12 }, standoff: 8 },
    gridcolor: css("--line"), zerolinecolor: css("--line"), linecolor: css("--line"), automargin: true, ...more,
  });
  const named = (layer) => layer.name || "the model itself";
  const hover = (layer) =>
    `<b>${plain(named(layer))}</b><br>${plain(layer.what)}, output ${layer.output}<br>` +
    `${fixed(layer.bflops, 3)} BFLOPs (${fixed(layer.share, 1)} %), ${fixed(layer.moved, 2)} MB moved, ` +
    `${fixed(layer.held, 2)} MB held` + (measured ? `<br>${fixed(layer.ms, 3)} ms, ${fixed(layer.of_roof, 0)} % of the roof` : "");

  function drawLayers() {
    const { title, unit } = METRICS[metric];
    const kinds = new Set();
    const traces = [];
    const rows = profiles.length;
    const gap = 0.26 / rows;
    const tall = (1 - gap * (rows - 1)) / rows;
    const arranged = { barmode: "overlay", annotations: [] };
    profiles.forEach((profile, row) => {
      const number = row ? row + 1 : "";
      const shown = profile.layers.filter((layer) => layer[metric] > 0);
      const groups = new Map();
      shown.forEach((layer, place) => {
        const kind = layer.kind in colours ? layer.kind : "other";
        if (!groups.has(kind)) groups.set(kind, []);
        groups.get(kind).push([place, layer]);
      });
      for (const [kind, entries] of groups) {
        traces.push({
          type: "bar", name: kind, legendgroup: kind, showlegend: !kinds.has(kind),
          x: entries.map(([place]) => place), y: entries.map(([, layer]) => layer[metric]),
          customdata: entries.map(([, layer]) => [row, profile.layers.indexOf(layer)]),
          hovertext: entries.map(([, layer]) => hover(layer)), hoverinfo: "text",
          width: 0.9, marker: { color: colours[kind] || others, line: { width: 0 } }, // plotly would take the gaps of a kind
          xaxis: `x${number}`, yaxis: `y${number}`,
        });
        kinds.add(kind);
      }
      const top = 1 - row * (tall + gap);
      arranged[`yaxis${number}`] = axis(unit, { domain: [Math.max(0, top - tall), top], matches: row ? "y" : undefined, rangemode: "tozero" });
      arranged[`xaxis${number}`] = axis(row === rows - 1 ? "operation, in order" : "", {
        anchor: `y${number}`, domain: [0, 1], showgrid: false, range: [-1, shown.length],
      });
      arranged.annotations.push({
        text: `<b>${plain(profile.name)}</b>  ${title}`, showarrow: false, xref: "paper", yref: "paper",
        x: 0, xanchor: "left", y: top, yanchor: "bottom", yshift: 3, font: { size: 12, color: series(row) },
      });
    });
    const chart = byId("layers-chart");
    chart.style.height = `${130 + 200 * rows}px`;
    const legend = { orientation: "h", y: 1, yanchor: "bottom", x: 1, xanchor: "right" };
    Plotly.react(chart, traces, layout({ ...arranged, legend, hovermode: "closest" }), CONFIG);
    chart.removeAllListeners?.("plotly_hover");
    chart.on("plotly_hover", ({ points }) => detail(...points[0].customdata));
  }

  function detail(row, place) {
    const layer = profiles[row].layers[place];
    const line = byId("detail");
    const name = document.createElement("b");
    name.textContent = named(layer);
    const described = Object.entries(METRICS).map(([key, { title, unit, digits }]) => `${title} ${fixed(layer[key], digits)} ${unit}`);
    line.replaceChildren(`${profiles[row].name}: `, name, `, ${layer.what}, output ${layer.output}. ${described.join("; ")}.`);
  }

  function drawBottleneck() {
    const traces = profiles.map((profile, index) => {
      const costs = profile.layers.filter((layer) => layer.bflops > 0).sort((a, b) => b.bflops - a.bflops);
      let total = 0;
      return {
        type: "scatter", mode: "lines", name: plain(profile.name), x: [0, ...costs.keys()].map((place, i) => (i ? place + 1 : 0)),
        y: [0, ...costs.map((layer) => (total += layer.share))], line: { color: series(index), width: 2.5 },
        hovertext: ["", ...costs.map((layer, i) => `${i + 1} layers<br>the last: ${plain(named(layer))}`)],
        hovertemplate: "%{y:.1f} % in %{hovertext}<extra></extra>",
      };
    });
    const arranged = {
      showlegend: profiles.length > 1,
      xaxis: axis("layers, the largest first"), yaxis: axis("% of all operations", { range: [0, 103] }),
    };
    Plotly.react(byId("bottleneck-chart"), traces, layout(arranged), CONFIG);
  }

  const machine = () => ({ flops: Number(byId("gflops").value), bytes: Number(byId("gbytes").value) }); // billions a second
  const folded = (layer) => layer.kind !== "norm" && layer.kind !== "activation";

  function drawRoofline() {
    const { flops, bytes } = machine();
    if (!(flops > 0 && bytes > 0)) return;
    const attainable = (layer) => Math.min(flops, layer.intensity * bytes);
    const traces = profiles.map((profile, index) => {
      const shown = profile.layers.filter((layer) => layer.bflops > 0);
      return {
        type: "scatter", mode: "markers", name: plain(profile.name),
        x: shown.map((layer) => layer.intensity), y: shown.map((layer) => (measured ? layer.rate : attainable(layer))),
        hovertext: shown.map(hover), hoverinfo: "text",
        marker: { color: series(index), size: 8, opacity: 0.7, line: { width: 0.5, color: css("--card") } },
      };
    });
    const across = traces.flatMap((trace) => trace.x);
    const [low, high] = [Math.min(...across) / 2, Math.max(...across, flops / bytes) * 2];
    traces.unshift({
      type: "scatter", mode: "lines", name: "roof", x: [low, flops / bytes, high], y: [low * bytes, flops, flops],
      line: { color: css("--soft"), width: 2 }, hovertemplate: "%{y:.4s} GFLOP/s at %{x:.1f} FLOP/byte<extra></extra>",
    });
    const log = { type: "log", dtick: 1 };
    const arranged = { hovermode: "closest", xaxis: axis("FLOP/byte, fp32", log), yaxis: axis("GFLOP/s", log) };
    Plotly.react(byId("roofline-chart"), traces, layout(arranged), CONFIG);
    byId("least").textContent = profiles.map(({ name, layers }) => {
      const times = layers.filter(folded).map((layer) => [layer.bflops / flops, layer.moved / 1e3 / bytes]);
      const least = times.reduce((sum, limits) => sum + Math.max(...limits), 0);
      const waiting = times.reduce((sum, [computing, moving]) => sum + (moving > computing ? moving : 0), 0);
      return `${name}: at least ${fixed(least * 1e3, 2)} ms, ${fixed((waiting / least) * 100, 0)} % of it for memory`;
    }).join("; ") + ".";
  }

  const cell = (tag, text, number, layer) => {
    const made = document.createElement(tag);
    made.textContent = text;
    made.className = [number && "number", layer && "layer"].filter(Boolean).join(" ");
    return made;
  };
  const rowOf = (cells) => {
    const row = document.createElement("tr");
    row.append(...cells);
    return row;
  };
  const cells = (layer, columns) => columns.map(([key, , digits]) => digits === null
    ? cell("td", key === "name" ? named(layer) : layer[key], false, key === "name")
    : cell("td", fixed(layer[key], digits), true));

  function fillLargest() {
    const columns = COLUMNS.filter(([key]) => ["name", "what", "output", "bflops", "share", measured ? "ms" : "moved"].includes(key));
    byId("largest").replaceChildren(...profiles.map((profile, index) => {
      const box = document.createElement("div");
      const title = document.createElement("h3");
      const dot = document.createElement("span");
      dot.className = `dot series-${index % 6}`;
      title.append(dot, profile.name);
      const table = document.createElement("table");
      const head = document.createElement("thead");
      const body = document.createElement("tbody");
      head.append(rowOf(columns.map(([, heading, digits]) => cell("th", heading, digits !== null))));
      const largest = [...profile.layers].sort((a, b) => b.bflops - a.bflops).slice(0, 8);
      body.append(...largest.map((layer) => rowOf(cells(layer, columns))));
      table.append(head, body);
      box.append(title, table);
      return box;
    }));
  }

  function fillOperations() {
    const words = byId("filter").value.toLowerCase();
    const { key, down } = order;
    const layers = profiles[byId("model").value].layers
      .filter((layer) => `${layer.name} ${layer.what} ${layer.kind}`.toLowerCase().includes(words));
    if (key) {
      const sign = down ? -1 : 1;
      layers.sort((a, b) => sign * (a[key] > b[key] ? 1 : a[key] < b[key] ? -1 : 0));
    }
    const head = document.createElement("thead");
    head.append(rowOf(COLUMNS.map(([own, heading, digits]) => {
      const made = cell("th", heading + (own === key ? (down ? " ↓" : " ↑") : ""), digits !== null);
      made.addEventListener("click", () => {
        order = { key: own, down: own === key ? !down : digits !== null };
        fillOperations();
      });
      return made;
    })));
    const body = document.createElement("tbody");
    body.append(...layers.map((layer) => rowOf(cells(layer, COLUMNS))));
    byId("operations").replaceChildren(head, body);
  }

  function drawAll() {
    drawLayers();
    drawBottleneck();
    drawRoofline();
  }

  byId("metrics").append(...Object.entries(METRICS).map(([key, { title }]) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = title;
    button.dataset.metric = key;
    button.setAttribute("aria-pressed", key === metric);
    button.addEventListener("click", () => {
      metric = key;
      for (const other of byId("metrics").children) other.setAttribute("aria-pressed", other === button);
      drawLayers();
    });
    return button;
  }));
  byId("model").append(...profiles.map((profile, index) => new Option(profile.name, index)));
  byId("model").addEventListener("change", fillOperations);
  byId("filter").addEventListener("input", fillOperations);

  for (const [id, value] of [["gflops", profiles[0].roof?.flops ?? 1000], ["gbytes", profiles[0].roof?.bytes ?? 50]]) {
    byId(id).value = Number(value.toPrecision(3));
    byId(id).addEventListener("input", drawRoofline);
  }

  const dark = matchMedia("(prefers-color-scheme: dark)");
  const paint = (name) => {
    document.documentElement.dataset.theme = name;
    drawAll();
  };
  dark.addEventListener("change", () => paint(dark.matches ? "dark" : "light"));
  byId("theme").addEventListener("click", () => paint(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
  fillLargest();
  fillOperations();
  paint(dark.matches ? "dark" : "light");
})();
