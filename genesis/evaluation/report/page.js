// Draws the plots. What they show is in the JSON above; what they look like is here and in the styles.
"use strict";
(() => {
  const figures = new Map(
    JSON.parse(document.getElementById("figures").textContent).map((figure) => [figure.id, figure]),
  );
  const drawn = new Set();
  const config = { displayModeBar: false, responsive: true, scrollZoom: false, doubleClick: false };

  // Plotly reads some HTML in texts; a name of a column or a category must stay what it is.
  const plain = (text) =>
    String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const short = (text, most) => {
    const letters = Array.from(String(text));
    return plain(letters.length > most ? letters.slice(0, most - 1).join("") + "…" : text);
  };
  const percent = (share) =>
    share === null ? "–" : (100 * share).toFixed(share && share < 0.01 ? 2 : 1) + " %";
  const score = (value) => (value === null ? "–" : value.toFixed(3));

  // Colours as they are now: they change with the scheme.
  const palette = () => {
    const style = getComputedStyle(document.documentElement);
    return Object.fromEntries(
      ["card", "ink", "soft", "line", "faint", "real", "synthetic", "holdout", "shuffled", "low"].map(
        (name) => [name, style.getPropertyValue("--" + name).trim()],
      ),
    );
  };

  const axis = (colour, more) => ({
    fixedrange: true, zeroline: false, showline: false, gridcolor: colour.faint, automargin: true,
    tickfont: { size: 11, color: colour.soft }, title: { font: { size: 12, color: colour.soft } }, ...more,
  });
  const layout = (colour, more) => ({
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: false, showlegend: false,
    margin: { l: 8, r: 12, t: 8, b: 8 }, hovermode: "closest",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour.ink },
    hoverlabel: { bgcolor: colour.card, bordercolor: colour.line, font: { color: colour.ink, size: 12 }, align: "left" },
    ...more,
  });

  // The three tables of a distribution: what is said where the pointer is.
  const said = ({ labels, real, synthetic, holdout }) =>
    labels.map((label, i) =>
      [["real", real], ["synthetic", synthetic], ["holdout", holdout]]
        .filter(([, shares]) => shares)
        .reduce((text, [name, shares]) => text + "<br>" + name + " " + percent(shares[i]), "<b>" + short(label, 60) + "</b>"),
    );

  const steps = (colour, data, type) => {
    const text = said(data);
    const closed = (values) => [...values, values[values.length - 1]];
    const line = (shares, look) => ({
      x: data.edges, y: closed(shares), type: "scatter", mode: "lines", hoverinfo: "skip", ...look,
    });
    const traces = [];
    if (data.real) traces.push(line(data.real, { line: { shape: "hv", width: 0 }, fill: "tozeroy", fillcolor: colour.real + "b3" }));
    if (data.holdout) traces.push(line(data.holdout, { line: { shape: "hv", width: 1.5, dash: "dot", color: colour.holdout } }));
    if (data.synthetic) traces.push(line(data.synthetic, { line: { shape: "hv", width: 2, color: colour.synthetic } }));
    // Invisible bars that answer the pointer over the whole of their width.
    const at = data.edges.map((edge) => (type === "date" ? Date.parse(edge) : edge));
    const tops = text.map((_, i) => Math.max(...[data.real, data.synthetic, data.holdout].filter(Boolean).map((s) => s[i] ?? 0)));
    traces.push({
      type: "bar", y: tops, offset: 0, width: at.slice(1).map((edge, i) => edge - at[i]), x: data.edges.slice(0, -1),
      marker: { color: "rgba(0,0,0,0)" }, hoverinfo: "text", hovertext: text,
    });
    // Few bars of one whole number each have their ticks at these numbers.
    const starts = data.edges.slice(0, -1);
    const whole = starts.length <= 8 && starts.every((edge, i) => Math.abs(edge % 1) === 0.5 && at[i + 1] - edge === 1);
    const ticks = whole ? { tickvals: starts.map((edge) => edge + 0.5) } : { nticks: 5 };
    return [traces, layout(colour, {
      hovermode: "x",
      xaxis: axis(colour, { type, range: [data.edges[0], data.edges[data.edges.length - 1]], showgrid: false, tickangle: 0, ...ticks }),
      yaxis: axis(colour, { rangemode: "tozero", nticks: 4, tickformat: "~%" }),
    })];
  };

  const drawings = {
    numbers: (colour, data) => steps(colour, data, "linear"),
    dates: (colour, data) => steps(colour, data, "date"),

    categories: (colour, data) => {
      const places = data.labels.map((_, i) => i);
      const text = said(data);
      const bars = (shares, color) => ({
        type: "bar", orientation: "h", x: shares, y: places, marker: { color }, hoverinfo: "text", hovertext: text,
      });
      const traces = [];
      if (data.real) traces.push(bars(data.real, colour.real));
      if (data.synthetic) traces.push(bars(data.synthetic, colour.synthetic));
      const gap = places.length < 5 ? 0.5 : 0.25;
      // A short line across the bars of each category.
      if (data.holdout) traces.push({
        type: "scatter", mode: "lines", hoverinfo: "skip", line: { width: 2, color: colour.holdout },
        x: data.holdout.flatMap((share) => [share, share, null]),
        y: places.flatMap((place) => [place - (1 - gap) / 2, place + (1 - gap) / 2, null]),
      });
      return [traces, layout(colour, {
        bargap: gap, bargroupgap: 0.05,
        xaxis: axis(colour, { rangemode: "tozero", nticks: 5, tickformat: "~%", tickangle: 0 }),
        yaxis: axis(colour, {
          showgrid: false, range: [places.length - 0.5, -0.5], tickvals: places,
          ticktext: data.labels.map((label) => short(label, 16)),
        }),
      })];
    },

    pairs: (colour, { columns, cells, scale, low }) => {
      const places = columns.map((_, i) => i);
      const scales = {
        agreement: [[0, colour.low], [1, colour.faint]],
        plain: [[0, colour.faint], [1, colour.synthetic]],
        signed: [[0, colour.holdout], [0.5, colour.faint], [1, colour.synthetic]],
      };
      const named = columns.length <= 16;
      const ticks = named
        ? { tickvals: places, ticktext: columns.map((name) => short(name, 12)), ticks: "" }
        : { showticklabels: false, ticks: "" };
      return [[{
        type: "heatmap", z: cells, x: places, y: places, zmin: low, zmax: 1, colorscale: scales[scale], showscale: false, xgap: named ? 1 : 0, ygap: named ? 1 : 0,
        hoverongaps: false, hoverinfo: "text",
        hovertext: cells.map((row, i) => row.map((value, j) =>
          "<b>" + short(columns[i], 40) + "</b> and <b>" + short(columns[j], 40) + "</b><br>" + score(value))),
      }], layout(colour, {
        margin: { l: 4, r: 4, t: 4, b: 4 },
        xaxis: axis(colour, { showgrid: false, ...ticks, tickangle: named ? -60 : 0, tickfont: { size: 10, color: colour.soft } }),
        yaxis: axis(colour, { showgrid: false, autorange: "reversed", ...ticks, tickangle: 0, tickfont: { size: 10, color: colour.soft } }),
      })];
    },

    curves: (colour, { lines }) => {
      const look = {
        worst: { width: 3, color: colour.synthetic },
        attack: { width: 1.25, color: colour.synthetic + "99" },
        positive: { width: 1.75, dash: "dash", color: colour.holdout },
        negative: { width: 1.5, dash: "dot", color: colour.shuffled },
      };
      const rates = lines.flatMap(({ fpr }) => fpr.filter((rate) => rate > 0));
      const floor = Math.max(Math.min(1, ...rates), 1e-5);
      const start = Math.log10(floor);
      const traces = [{ x: [floor, 1], y: [floor, 1], mode: "lines", line: { width: 1, color: colour.line }, hoverinfo: "skip" }];
      for (const { name, role, fpr, tpr } of lines) {
        traces.push({
          x: fpr.map((rate) => (rate > 0 ? rate : null)), y: tpr.map((rate) => (rate > 0 ? rate : null)),
          mode: "lines", line: look[role], hoverinfo: "text",
          hovertext: fpr.map((rate, i) => "<b>" + plain(name) + "</b><br>finds " + percent(tpr[i]) + "<br>with " + percent(rate) + " false alarms"),
        });
      }
      // Planted leaks are named below the beginnings of their curves, unless two names would meet.
      const starts = lines.filter(({ role }) => role === "positive").flatMap(({ short: name, fpr, tpr }) => {
        const first = fpr.findIndex((rate, i) => rate > 0 && tpr[i] > 0);
        return first < 0 ? [] : [{ name, x: Math.log10(fpr[first]), y: Math.log10(tpr[first]) }];
      });
      const annotations = [];
      for (const { name, x, y } of starts.sort((a, b) => b.y - a.y)) {
        if (annotations.some((other) => other.y - y < 0.2)) continue;
        annotations.push({
          x, y, text: plain(name), showarrow: false, xanchor: "left", yanchor: "top", xshift: 4, yshift: -1,
          font: { size: 11, color: colour.holdout },
        });
      }
      const rate = { type: "log", dtick: 1, range: [start, 0.03], tickformat: "~%" };
      return [traces, layout(colour, {
        annotations, margin: { l: 8, r: 24, t: 8, b: 8 },
        xaxis: axis(colour, { ...rate, title: { text: "false alarms among non-members (FPR)", font: { size: 12, color: colour.soft } } }),
        yaxis: axis(colour, { ...rate, title: { text: "members found (TPR)", font: { size: 12, color: colour.soft } } }),
      })];
    },

    losses: (colour, { lines }) => {
      const shades = [colour.synthetic, colour.holdout, colour.soft, colour.low, colour.real];
      const dashes = ["solid", "dash", "dot"];
      const rounds = Math.max(...lines.map(({ values }) => values.length));
      const traces = lines.map(({ name, values }, i) => ({
        x: values.map((_, round) => round + 1), y: values, name: short(name, 30),
        mode: values.length > 1 ? "lines" : "markers", hoverinfo: "text",
        line: { width: 2, color: shades[i % shades.length], dash: dashes[Math.floor(i / shades.length) % dashes.length] },
        hovertext: values.map((value, round) => "<b>" + short(name, 40) + "</b><br>round " + (round + 1) + ": " + (value === null ? "–" : value.toPrecision(4))),
      }));
      return [traces, layout(colour, {
        showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 12 }, itemclick: false, itemdoubleclick: false },
        xaxis: axis(colour, { title: { text: "round", font: { size: 12, color: colour.soft } }, showgrid: false, ...(rounds <= 8 ? { dtick: 1 } : { nticks: 8 }) }),
        yaxis: axis(colour, { nticks: 6 }),
      })];
    },
  };

  const draw = (place) => {
    const figure = figures.get(place.id);
    const [traces, look] = drawings[figure.draw](palette(), figure.data);
    drawn.add(place);
    return Plotly.react(place, traces, look, config);
  };

  // A plot is drawn when it comes near the screen, so that a wide table opens at once.
  const places = [...document.querySelectorAll(".plot")];
  const watch = new IntersectionObserver(
    (entries) => entries.filter((entry) => entry.isIntersecting).forEach(({ target }) => {
      watch.unobserve(target);
      draw(target);
    }),
    { rootMargin: "400px" },
  );
  places.forEach((place) => watch.observe(place));
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn.forEach(draw));
  window.addEventListener("beforeprint", () => {
    document.querySelectorAll("details").forEach((part) => { part.open = true; });
    places.forEach(draw);
  });
})();
