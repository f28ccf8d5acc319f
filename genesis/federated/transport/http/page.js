// Asks the server how the run is, every two seconds, and shows it. What clients have named
// themselves and said is text and stays text: it only ever goes through textContent.
"use strict";
(() => {
  const EVERY = 2000; // ms from an answer to the next question
  const SLOWEST = 10000; // the same, when the server has been away for a while
  const PATIENCE = 10000; // ms that a question may take
  const MOST_CURVES = 12;
  const MOST_MISSED = 12;

  const STATES = {
    waiting: "Waiting for clients",
    agreeing: "Agreeing on the columns",
    training: "Training",
    finishing: "Finishing",
    complete: "Complete",
    failed: "Failed",
    interrupted: "Interrupted",
  };
  const ENDED = ["complete", "failed", "interrupted"];
  const HERE = ["working", "waiting"];
  const CLIENT_STATES = [...HERE, "absent"];

  const at = (id) => document.getElementById(id);
  // Only what differs is written: a screen reader speaks of changes, a selection stays.
  const say = (node, text) => {
    if (node.textContent !== text) node.textContent = text;
  };
  const look = (node, classes) => {
    if (node.getAttribute("class") !== classes) node.setAttribute("class", classes);
  };
  const make = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    Object.entries(attributes).forEach(([name, value]) => node.setAttribute(name, value));
    node.append(...children);
    return node;
  };
  const draw = (tag, attributes = {}, ...children) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    Object.entries(attributes).forEach(([name, value]) => node.setAttribute(name, value));
    node.append(...children);
    return node;
  };

  // Numbers for people. What is no number is a dash.
  const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
  const list = (value) => (Array.isArray(value) ? value : []);
  const count = (value) =>
    isNumber(value) ? value.toLocaleString("en", { maximumFractionDigits: 0 }) : "–";
  const time = (seconds) => {
    if (!isNumber(seconds)) return "–";
    const s = Math.max(0, Math.round(seconds));
    const two = (value) => String(value).padStart(2, "0");
    if (s < 60) return `${s} s`;
    if (s < 3600) return `${Math.floor(s / 60)} min ${two(s % 60)} s`;
    if (s < 86400) return `${Math.floor(s / 3600)} h ${two(Math.floor((s % 3600) / 60))} min`;
    return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
  };
  const short = (seconds) => (isNumber(seconds) && seconds < 9.95 ? `${seconds.toFixed(1)} s` : time(seconds));
  const about = (seconds) => time(seconds).split(" ", 2).join(" ");
  const bytes = (value) => {
    if (!isNumber(value)) return "–";
    const units = ["B", "kB", "MB", "GB", "TB", "PB"];
    let unit = 0;
    // 999,950 B would be rounded to 1000.0 kB.
    while (unit < units.length - 1 && value >= (unit ? 999.95 : 1000)) {
      value /= 1000;
      unit += 1;
    }
    return `${unit ? value.toFixed(1) : count(value)} ${units[unit]}`;
  };
  const digits = (value) => {
    if (!isNumber(value)) return "–";
    const size = Math.abs(value);
    if (size && (size >= 1e6 || size < 1e-3)) return value.toExponential(2);
    return value.toLocaleString("en", { maximumSignificantDigits: 4 });
  };
  const words = (name) => name.replace(/_loss$/, "").replaceAll("_", " ");

  // A table of texts, [text, class] a cell; the first of a row names it.
  const fill = (body, rows) => {
    while (body.rows.length > rows.length) body.deleteRow(-1);
    rows.forEach((cells, i) => {
      const row = body.rows[i] ?? body.insertRow();
      cells.forEach(([text, classes], j) => {
        const kind = j ? ["td", {}] : ["th", { scope: "row" }];
        const cell = row.cells[j] ?? row.appendChild(make(...kind, make("bdi")));
        look(cell, classes);
        say(cell.firstChild, text);
      });
    });
  };

  // Curves.

  // Ticks at round numbers, some five of them between low and high.
  const ticks = (low, high, most = 5) => {
    const rough = (high - low) / most;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999) * power;
    const first = Math.ceil(low / step - 1e-9);
    const last = Math.floor(high / step + 1e-9);
    return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
  };
  const tickText = (value, step) => {
    const power = (number) => Math.floor(Math.log10(Math.abs(number)) + 1e-9);
    if (value === 0) return "0";
    if (Math.abs(value) >= 1e6 || Math.abs(value) < 1e-3) {
      return value.toExponential(Math.max(0, power(value) - power(step)));
    }
    return value.toLocaleString("en", { maximumFractionDigits: Math.max(0, -power(step)) });
  };

  // The runs of a curve between rounds that have no value.
  const pieces = (values) => {
    const found = [[]];
    values.forEach((value, i) => (value === null ? found.push([]) : found[found.length - 1].push(i)));
    return found.filter((piece) => piece.length);
  };

  const rem = () => parseFloat(getComputedStyle(document.documentElement).fontSize);
  const curve = (index) => `c${index % 6} d${index % 3}`;

  // One picture: curves is [[name, values]], with a value or null for each of the rounds.
  const picture = (title, rounds, curves, width) => {
    const unit = rem();
    const height = Math.min(22 * unit, Math.max(11 * unit, width * 0.55));
    const known = curves.flatMap(([, values]) => values.filter((value) => value !== null));
    let low = known.reduce((one, other) => Math.min(one, other));
    let high = known.reduce((one, other) => Math.max(one, other));
    const size = Math.max(Math.abs(low), Math.abs(high));
    const space = high - low > 1e-9 * size ? (high - low) / 20 : size / 2 || 1; // flat: in the middle
    [low, high] = [low - space, high + space];
    const marks = ticks(low, high);
    const texts = marks.map((mark) => tickText(mark, marks[1] - marks[0]));

    const widest = Math.max(...texts.map((text) => text.length));
    const box = {
      left: (0.9 + 0.45 * widest) * unit,
      right: width - 0.5 * unit,
      top: 0.5 * unit,
      bottom: height - 2.6 * unit,
    };
    const first = rounds[0];
    const last = Math.max(rounds[rounds.length - 1], first + 1);
    const x = (round) => box.left + ((round - first) / (last - first)) * (box.right - box.left);
    const y = (value) => box.bottom - ((value - low) / (high - low)) * (box.bottom - box.top);

    const svg = draw("svg", { role: "img", viewBox: `0 0 ${width} ${height}`, height });
    svg.append(draw("title", {}, `${title}, rounds ${first} to ${rounds[rounds.length - 1]}`));
    marks.forEach((mark, i) => {
      const place = y(mark);
      const line = mark === 0 ? "zero" : "grid";
      const beside = { "text-anchor": "end", "dominant-baseline": "central" };
      svg.append(
        draw("line", { class: line, x1: box.left, x2: box.right, y1: place, y2: place }),
        draw("text", { x: box.left - 0.5 * unit, y: place, ...beside }, texts[i]),
      );
    });
    const whole = ticks(first, last, Math.min(8, width / (4 * unit))).filter(Number.isInteger);
    const below = { "text-anchor": "middle" };
    whole.forEach((round) =>
      svg.append(draw("text", { x: x(round), y: box.bottom + 1.1 * unit, ...below }, count(round))),
    );
    svg.append(draw("text", { x: (box.left + box.right) / 2, y: height - 0.25 * unit, ...below }, "round"));

    const guide = draw("line", { class: "guide", y1: box.top, y2: box.bottom, visibility: "hidden" });
    svg.append(guide);
    curves.forEach(([name, values], index) => {
      const group = svg.appendChild(draw("g", { "data-metric": name }));
      pieces(values).forEach((piece) => {
        const points = piece.map((i) => [x(rounds[i]).toFixed(1), y(values[i]).toFixed(1)]);
        const [[cx, cy]] = points;
        group.append(
          points.length > 1
            ? draw("polyline", { class: `curve ${curve(index)}`, points: points.join(" ") })
            : draw("circle", { class: `dot ${curve(index)}`, cx, cy, r: 3.5 }),
        );
      });
    });
    return { svg, guide, x };
  };

  const legend = (curves) => {
    const values = curves.map(() => make("b"));
    const entries = curves.map(([name], index) => {
      const line = draw("line", { class: `curve ${curve(index)}`, x1: 1, x2: 23, y1: 4, y2: 4 });
      const sample = draw("svg", { viewBox: "0 0 24 8", "aria-hidden": "true" }, line);
      return make("li", {}, sample, make("bdi", {}, words(name)), values[index]);
    });
    return { node: make("ul", { class: "legend" }, ...entries), values };
  };

  // A picture with its legend, which tells the values of the last round or of the one pointed at.
  const chart = (title, rounds, curves, width) => {
    const { svg, guide, x } = picture(title, rounds, curves, width);
    const { node, values } = legend(curves);
    const heading = make("h3");
    const tell = (i) => {
      say(heading, `${title}, round ${count(rounds[i])}`);
      curves.forEach(([, all], index) => say(values[index], digits(all[i])));
    };
    const rest = () => {
      guide.setAttribute("visibility", "hidden");
      tell(rounds.length - 1);
    };
    svg.addEventListener("pointerleave", rest);
    svg.addEventListener("pointermove", (event) => {
      const place = event.clientX - svg.getBoundingClientRect().left;
      const gaps = rounds.map((round) => Math.abs(x(round) - place));
      const nearest = gaps.indexOf(Math.min(...gaps));
      guide.setAttribute("x1", x(rounds[nearest]));
      guide.setAttribute("x2", x(rounds[nearest]));
      guide.setAttribute("visibility", "visible");
      tell(nearest);
    });
    rest();
    return make("div", { class: "chart" }, heading, node, svg);
  };

  // Losses share a picture; what else is measured has a scale, and so a picture, of its own.
  // Metrics of single columns, with a dot in the name, are left to /metrics.
  const charts = (reports, width) => {
    const rounds = reports.map((report) => report.round);
    const names = [...new Set(reports.flatMap((report) => Object.keys(report.metrics ?? {})))];
    // Beyond these, the scale itself would not be a finite number other than 0.
    const value = (metric) => {
      if (!isNumber(metric) || Math.abs(metric) > 1e300) return null;
      return Math.abs(metric) < 1e-300 ? 0 : metric;
    };
    const curves = names
      .filter((name) => !name.includes("."))
      .map((name) => [name, reports.map(({ metrics }) => value(metrics?.[name]))])
      .filter(([, values]) => values.some((value) => value !== null))
      .slice(0, MOST_CURVES);
    const isLoss = ([name]) => name.endsWith("loss");
    const losses = curves.filter(isLoss);
    const others = curves.filter((each) => !isLoss(each)).map((each) => ["Measured", [each]]);
    return [["Loss", losses], ...others]
      .filter(([, each]) => each.length)
      .map(([title, each]) => chart(title, rounds, each, width));
  };

  let drawn = "";
  let reports = [];
  const redraw = () => {
    const area = at("charts");
    const width = area.clientWidth - 2 * rem() - 2; // without the padding and border of a chart
    const now = JSON.stringify([width, reports.map(({ round, metrics }) => [round, metrics])]);
    if (now === drawn || width <= 0) return;
    drawn = now;
    area.replaceChildren(...charts(reports, width));
    at("no-losses").hidden = area.childElementCount > 0;
  };
  new ResizeObserver(redraw).observe(at("charts"));

  // The picture.

  const clientRow = (client) => [
    [String(client.client_id ?? ""), ""],
    [String(client.state ?? "–"), CLIENT_STATES.includes(client.state) ? `state ${client.state}` : "state"],
    [isNumber(client.last_seen) ? `${about(client.last_seen)} ago` : "–", "n"],
    [count(client.rows), "n"],
    [String(client.task ?? "–"), ""],
    [count(client.rounds), "n"],
  ];

  // Who gave no update, and why: the latest first.
  const missed = (rounds) =>
    [...rounds].reverse().flatMap(({ round, failed, dropped }) => [
      ...Object.entries(failed ?? {}).map(([client, why]) => [client, round, String(why)]),
      ...list(dropped).map((client) => [String(client), round, "did not answer"]),
    ]);

  const show = (status) => {
    const clients = list(status.clients).filter((client) => client && typeof client === "object");
    const rounds = list(status.rounds).filter((report) => isNumber(report?.round));
    const here = clients.filter((client) => HERE.includes(client.state)).length;
    const state = Object.hasOwn(STATES, status.state) ? STATES[status.state] : status.state;

    look(document.body, Object.hasOwn(STATES, status.state) ? status.state : "");
    say(at("state"), state);
    const waits = status.state === "waiting" && isNumber(status.min_clients);
    const wait = waits ? `${here} of the ${count(status.min_clients)} that it needs are here` : "";
    say(at("reason"), String(status.reason ?? wait));
    at("reason").hidden = !at("reason").textContent;
    say(at("contact"), "");
    const version = status.version && `version ${status.version}`;
    say(at("plan"), [status.method, status.aggregation, version].filter(Boolean).join(" · "));
    document.title = `${count(status.round)}/${count(status.n_rounds)} ${state} · Genesis`;

    say(at("round"), count(status.round));
    say(at("planned"), `of ${count(status.n_rounds)} rounds`);
    const goesOn = isNumber(status.seconds_left) && !ENDED.includes(status.state);
    say(at("left"), goesOn ? `about ${time(status.seconds_left)} left` : "");
    at("progress").max = Math.max(1, isNumber(status.n_rounds) ? status.n_rounds : 1);
    at("progress").value = isNumber(status.round) ? status.round : 0;

    say(at("seconds"), time(status.seconds));
    say(at("last"), short(rounds[rounds.length - 1]?.seconds));
    const promised = isNumber(status.epsilon) ? `ε = ${digits(status.epsilon)}` : "no differential privacy";
    const scheme = status.secure_aggregation;
    say(at("epsilon"), typeof scheme === "string" ? `${promised}; secure sums by ${scheme}` : promised);
    say(at("speed"), `${count(status.rows_per_second)} rows/s`);
    say(at("received"), bytes(status.bytes_received));
    say(at("sent"), bytes(status.bytes_sent));

    say(at("here"), clients.length ? `${here} of ${clients.length} here` : "");
    at("no-clients").hidden = clients.length > 0;
    at("clients-table").hidden = !clients.length;
    fill(at("clients"), clients.map(clientRow));

    const gaps = missed(rounds);
    at("missed").hidden = !gaps.length;
    const more = gaps.length > MOST_MISSED;
    say(at("more-missed"), more ? `the latest ${MOST_MISSED} of ${count(gaps.length)}` : "");
    const missedRow = ([client, round, why]) => [[client, ""], [count(round), "n"], [why, "why"]];
    fill(at("failures"), gaps.slice(0, MOST_MISSED).map(missedRow));

    at("run").hidden = false;
    reports = rounds;
    redraw();
  };

  // The server does not answer: what was last seen stays, and says that it is old.
  let last = null;
  const lose = (why) => {
    if (!last) {
      say(at("state"), "No answer");
      say(at("contact"), `${why} Asking again every few seconds.`);
      return;
    }
    document.body.classList.add("lost");
    const when = last.when.toLocaleTimeString();
    say(at("contact"), ENDED.includes(last.state)
      ? `The run is over and the server has gone. This is how it was at ${when}.`
      : `${why} This is how the run was at ${when}; asking again every few seconds.`);
  };

  // The page's own address may hold a token, and fetch refuses such addresses.
  const address = new URL("v1/status", document.baseURI);
  address.username = address.password = "";

  const ask = async () => {
    let answer;
    try {
      answer = await fetch(address, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
    } catch {
      throw new Error("The server does not answer.");
    }
    if ([401, 403].includes(answer.status)) throw new Error("The server wants a token: reload this page to give it.");
    if (!answer.ok) throw new Error(`The server answers with an error (${answer.status}).`);
    const status = await answer.json().catch(() => null);
    if (typeof status?.state !== "string") throw new Error("The server's answer is not the status of a run.");
    return status;
  };

  let pause = EVERY;
  const turn = async () => {
    try {
      const status = await ask();
      last = { state: status.state, when: new Date() };
      pause = EVERY;
      show(status);
    } catch (error) {
      pause = Math.min(2 * pause, SLOWEST);
      lose(error.message);
    }
    setTimeout(turn, pause);
  };
  turn();
})();
