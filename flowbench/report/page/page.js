"use strict";
(() => {
  // Every string of a run is set as text and never as markup.
  const data = JSON.parse(document.getElementById("data").textContent);
  const styles = new Map(data.styles.map((style) => [style.algo, style]));
  const DASHES = { "-": "", "--": "6 4", "-.": "7 3 2 3", ":": "2 3" };

  function fill(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value !== null) node.setAttribute(name, value);
    }
    node.append(...children.filter((child) => child !== null));
    return node;
  }
  const element = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
  const shape = (tag, attributes = {}, ...children) =>
    fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

  // Black lines would be invisible on a dark page. A pair without a verdict has no algorithm and is grey.
  const colour = (algo) => {
    const own = styles.get(algo)?.colour ?? "var(--faint)";
    return own === "#000000" ? "var(--ink)" : own;
  };
  const dashes = (algo) => DASHES[styles.get(algo).dashes];
  const isPublished = (algo) => styles.get(algo)?.dashes === "--";
  /** A text whose labels may break after a comma, bracket or hash, as in the terminal, but not after "0.4 [". */
  const broken = (text) => text.split(/(?<=[,# ]|[^ ]\[)/).flatMap((piece) => [piece, element("wbr")]);
  const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

  function fixed(value, digits) {
    // Ties are rounded to the even neighbour, as in the other formats. A tie has exactly one more binary digit.
    const tie = Math.abs((value * 2 ** (digits + 1)) % 2) === 1;
    const text = (tie ? (2 * Math.round((value * 10 ** digits) / 2)) / 10 ** digits : value).toFixed(digits);
    return Number(text) === 0 ? text.replace("-", "") : text;
  }
  function interval(row, digits, names = ["estimate", "low", "high"]) {
    const [estimate, low, high] = names.map((name) => row[name]);
    if (estimate === null) return "-";
    return `${fixed(estimate, digits)} [${low === null ? "-" : `${fixed(low, digits)}, ${fixed(high, digits)}`}]`;
  }
  const pValue = (p) => (p < 0.001 ? "< 0.001" : `= ${fixed(p, Math.abs(p - 0.05) < 0.0005 ? 4 : 3)}`);
  function short(value) {
    for (const [size, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
      if (Math.abs(value) >= size) return `${Number((value / size).toPrecision(4))}${unit}`;
    }
    return String(Number(value.toPrecision(4)));
  }
  function duration(seconds) {
    if (seconds < 60) return `${fixed(seconds, 1)} s`;
    const minutes = Math.round(seconds / 60);
    return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  }
  function ticks(low, high, wanted) {
    const rough = (high - low) / wanted;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
    const first = Math.ceil(low / step - 1e-9);
    const count = Math.floor(high / step + 1e-9) - first + 1;
    // One label does not show a scale.
    if (count < 2 && wanted < 50) return ticks(low, high, 2 * wanted);
    return Array.from({ length: count }, (_, place) => (first + place) * step);
  }
  function range(values, least) {
    const known = [...values, ...least].filter((value) => value !== null);
    const low = known.reduce((a, b) => Math.min(a, b), Infinity);
    const high = known.reduce((a, b) => Math.max(a, b), -Infinity);
    return low < high ? [low, high] : [known.length ? low - 0.5 : 0, known.length ? low + 0.5 : 1];
  }

  function swatch(algo) {
    const stroke = { stroke: colour(algo), "stroke-width": 3, "stroke-dasharray": dashes(algo) };
    const line = shape("line", { x1: 0, x2: 22, y1: 5, y2: 5, ...stroke });
    return shape("svg", { class: "swatch", "aria-hidden": "true" }, line);
  }
  function legend(algos) {
    return element("ul", { class: "legend" }, ...algos.map((algo) => element("li", {}, swatch(algo), algo)));
  }

  // Intervals as bars ------------------------------------------------------------------------------------------------

  function bars(title, rows, { span, half = null, wide = false }) {
    const [low, high] = span;
    const at = (value) => `${(100 * (value - low)) / (high - low)}%`;
    const body = rows.map((row) => {
      const drawing = shape("svg", { "aria-hidden": "true" });
      if (half !== null) {
        drawing.append(shape("line", { x1: at(half), x2: at(half), y1: 0, y2: "100%", class: "half" }));
      }
      if (row.low !== null) {
        const width = `${(100 * (row.high - row.low)) / (high - low)}%`;
        const bar = { x: at(row.low), y: 4, width, height: 10, fill: colour(row.style), opacity: 0.4 };
        drawing.append(shape("rect", bar));
      }
      if (row.estimate !== null) {
        const isHollow = row.style === undefined || isPublished(row.style); // not decided, or published
        const inside = isHollow ? "var(--card)" : colour(row.style);
        const point = { cx: at(row.estimate), cy: 9, r: 3, fill: inside, stroke: colour(row.style), "stroke-width": 2 };
        drawing.append(shape("circle", point));
      }
      return element(
        "tr", {}, element("th", { scope: "row" }, ...broken(row.name)), element("td", { class: "bar" }, drawing),
        element("td", {}, interval(row, 3), ...(row.note ? [element("div", { class: "faint" }, row.note)] : [])),
      );
    });
    const axis = shape("svg", { "aria-hidden": "true" });
    for (const tick of ticks(low, high, 3)) {
      axis.append(shape("text", { x: at(tick), y: 12, "text-anchor": "middle" }, short(tick)));
    }
    body.push(element("tr", {}, element("td"), element("td", { class: "bar" }, axis)));
    const table = element("table", { class: wide ? "bars wide" : "bars" }, ...body);
    return element("div", { class: "card" }, element("h4", {}, title), table);
  }

  function aggregates(suite) {
    const metrics = [...new Set(suite.aggregates.map((row) => row.metric))];
    return element("div", { class: "cards few" }, ...metrics.map((metric) => {
      const own = new Map(suite.aggregates.filter((row) => row.metric === metric).map((row) => [row.algo, row]));
      const rows = suite.algos.map((algo) => ({ ...own.get(algo), name: algo, style: algo }));
      const worst = metric === "Optimality Gap";
      const [low, high] = range(rows.flatMap((row) => [row.estimate, row.low, row.high]), []);
      const room = (high - low) / 10;
      const span = [low - room, high + room];
      return bars(`${metric} (${worst ? "lower" : "higher"} is better)`, rows, { span });
    }));
  }

  function pairs(suite, own) {
    if (!suite.improvement.length) return [];
    const said = (row) => {
      const p = row.p_holm === null ? "" : `, p ${pValue(row.p_holm)}`;
      return `${row.verdict}${p}, ${plural(row.tasks, "task")}`;
    };
    const list = () => {
      const rows = suite.improvement.map((row) => ({
        ...row, name: `${row.algo} > ${row.over}`, note: said(row),
        style: { better: row.algo, worse: row.over }[row.verdict],
      }));
      const title =
        "P(X > Y): the probability that a run of X scores higher than a run of Y; below it, the verdict on X";
      return bars(title, rows, { span: [0, 1], half: 0.5, wide: true });
    };
    const title = suite.baseline ? ` with the baseline ${suite.baseline}` : "";
    const head = element("h3", {}, `Pairs${title}: probability of improvement over the tasks`);
    if (!own.matrix) return [head, list()];
    const percent = "The numbers are the probability in percent that a run of the row scores higher. ";
    const note = element(
      "p", { class: "faint" }, "The row against the column: + better, − worse, ? not decided. ",
      element("span", { class: "percent" }, percent), "Point at a cell for its interval and p, or open the list.",
    );
    const all = lazy([`All ${suite.improvement.length} pairs with intervals and p`], () => [list()]);
    return [head, note, matrix(suite, said), all];
  }

  const SIGNS = { better: "+", worse: "−", undecided: "?", "too few seeds": "?", "no common task": "" };
  const REVERSED = { better: "worse", worse: "better" };

  /** Every pair as a coloured cell, readable without the colour: the row against the column. */
  function matrix(suite, said) {
    const own = new Map();
    for (const row of suite.improvement) {
      own.set(JSON.stringify([row.algo, row.over]), row);
      const [low, high] = row.low === null ? [null, null] : [1 - row.high, 1 - row.low];
      const turned = { ...row, algo: row.over, over: row.algo, estimate: 1 - row.estimate, low, high };
      own.set(JSON.stringify([row.over, row.algo]), { ...turned, verdict: REVERSED[row.verdict] ?? row.verdict });
    }
    const cell = (algo, over) => {
      const row = own.get(JSON.stringify([algo, over]));
      const sign = row && SIGNS[row.verdict];
      if (!sign) return element("td");
      const title = `${algo} > ${over}: ${interval(row, 3)}; ${said(row)}`;
      const percent = element("span", { class: "percent" }, fixed(100 * row.estimate, 0));
      return element("td", { class: row.verdict.split(" ")[0], title }, percent, sign);
    };
    const heads = suite.algos.map((algo, place) => element("th", { scope: "col", title: algo }, String(place + 1)));
    const rows = suite.algos.map((algo, place) => element(
      "tr", {}, element("th", { scope: "row" }, `${place + 1} `, ...broken(algo)),
      ...suite.algos.map((over) => cell(algo, over)),
    ));
    return element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "pairs" }, element(
      "table", { class: "matrix" }, element("thead", {}, element("tr", {}, element("th"), ...heads)),
      element("tbody", {}, ...rows),
    ));
  }

  // Curves -----------------------------------------------------------------------------------------------------------

  const WIDTH = 360, HEIGHT = 220, LEFT = 46, RIGHT = 342, TOP = 8, BOTTOM = 176;

  /** A line chart of {algo, x, estimate, low, high} (arrays). The pointer or the arrow keys show the values. */
  function chart(title, series, { xlabel, digits, showX, least }) {
    const [x0, x1] = range(series.flatMap((own) => own.x), [0]);
    const [y0, y1] = range(series.flatMap((own) => [...own.estimate, ...own.low, ...own.high]), least);
    const x = (value) => LEFT + ((RIGHT - LEFT) * (value - x0)) / (x1 - x0);
    const y = (value) => BOTTOM - ((BOTTOM - TOP) * (value - y0)) / (y1 - y0);
    const spoken = `${title}: ${xlabel} on the x axis. The arrow keys show the values.`;
    const plot = shape("svg", {
      class: "plot", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "application", tabindex: 0, "aria-label": spoken,
    });
    for (const tick of ticks(y0, y1, 5)) {
      plot.append(shape("line", { x1: LEFT, x2: RIGHT, y1: y(tick), y2: y(tick), class: "grid" }));
      plot.append(shape("text", { x: LEFT - 5, y: y(tick) + 4, "text-anchor": "end" }, short(tick)));
    }
    for (const tick of ticks(x0, x1, 4)) {
      plot.append(shape("text", { x: x(tick), y: BOTTOM + 17, "text-anchor": "middle" }, short(tick)));
    }
    plot.append(shape("text", { x: (LEFT + RIGHT) / 2, y: HEIGHT - 4, "text-anchor": "middle" }, xlabel));
    const faint = Math.min(0.18, 0.9 / series.length); // the bands of many curves lie on each other
    for (const own of series) plot.append(...curve(own, x, y, faint));
    const guide = shape("line", { y1: TOP, y2: BOTTOM, class: "guide", visibility: "hidden" });
    plot.append(guide);
    const tip = element("div", { class: "tip", hidden: "", role: "status" });
    const card = element("figure", { class: "card", "data-title": title }, element("h4", {}, title), plot, tip);
    reads(plot, guide, tip, series, x, { digits, showX });
    return card;
  }

  function curve(own, x, y, opacity) {
    const point = (place, values) => `${x(own.x[place]).toFixed(1)},${y(values[place]).toFixed(1)}`;
    const places = own.x.map((_, place) => place);
    const drawn = [];
    const known = places.filter((place) => own.low[place] !== null);
    if (known.length) {
      const edge = [...known.map((k) => point(k, own.low)), ...known.reverse().map((k) => point(k, own.high))];
      drawn.push(shape("polygon", { points: edge.join(" "), class: "band", fill: colour(own.algo), opacity }));
    }
    const points = places.map((place) => point(place, own.estimate)).join(" ");
    const line = { class: "line", points, stroke: colour(own.algo), "stroke-dasharray": dashes(own.algo) };
    drawn.push(shape("polyline", line));
    if (places.length === 1) {
      drawn.push(shape("circle", { cx: x(own.x[0]), cy: y(own.estimate[0]), r: 3, fill: colour(own.algo) }));
    }
    return drawn;
  }

  function nearest(values, wanted) {
    const away = (value) => Math.abs(value - wanted);
    return values.reduce((best, value, k) => (away(value) < away(values[best]) ? k : best), 0);
  }

  function reads(plot, guide, tip, series, x, { digits, showX }) {
    const stops = [...new Set(series.flatMap((own) => own.x))].sort((a, b) => a - b);
    if (!stops.length) return;
    let place = stops.length - 1;

    function show() {
      const stop = stops[place];
      guide.setAttribute("x1", x(stop));
      guide.setAttribute("x2", x(stop));
      guide.setAttribute("visibility", "visible");
      const lines = series.map((own) => {
        const k = nearest(own.x, stop);
        const row = { estimate: own.estimate[k], low: own.low[k], high: own.high[k] };
        const where = own.x[k] === stop ? "" : ` at ${showX(own.x[k])}`;
        return element("div", {}, swatch(own.algo), `${own.algo} ${interval(row, digits)}${where}`);
      });
      tip.replaceChildren(element("div", {}, element("b", {}, showX(stop))), ...lines);
      tip.hidden = false;
      const [box, room] = [plot.getBoundingClientRect(), plot.parentElement.getBoundingClientRect()];
      const left = box.left - room.left + (box.width * x(stop)) / WIDTH;
      const side = left > room.width / 2 ? left - tip.offsetWidth - 10 : left + 10;
      tip.style.left = `${Math.max(4, Math.min(side, room.width - tip.offsetWidth - 4))}px`;
      tip.style.top = `${box.bottom - room.top + 2}px`;
    }
    function hide() {
      tip.hidden = true;
      guide.setAttribute("visibility", "hidden");
    }
    function follow(event) {
      const box = plot.getBoundingClientRect();
      const wanted = ((event.clientX - box.left) / box.width) * WIDTH;
      place = nearest(stops.map(x), wanted);
      show();
    }
    function step(event) {
      const to = { ArrowLeft: place - 1, ArrowRight: place + 1, Home: 0, End: stops.length - 1 }[event.key];
      if (event.key === "Escape") hide();
      if (to === undefined) return;
      event.preventDefault();
      place = Math.max(0, Math.min(stops.length - 1, to));
      show();
    }
    for (const name of ["pointermove", "pointerdown"]) plot.addEventListener(name, follow);
    for (const name of ["pointerleave", "blur"]) plot.addEventListener(name, hide);
    plot.addEventListener("focus", () => plot.matches(":focus-visible") && show());
    plot.addEventListener("keydown", step);
  }

  const byAlgo = (algos, rows, x) => algos.map((algo) => {
    const own = rows.filter((row) => row.algo === algo && row[x] !== null);
    const column = (name) => own.map((row) => row[name]);
    return { algo, x: column(x), estimate: column("estimate"), low: column("low"), high: column("high") };
  }).filter((own) => own.x.length);

  const atStep = (step) => `step ${step.toLocaleString("en")}`;

  function overall(suite) {
    const cards = [];
    const steps = byAlgo(suite.algos, suite.curves, "step");
    if (steps.length) {
      const title = "IQM of normalised scores over steps";
      cards.push(chart(title, steps, { xlabel: "environment steps", digits: 3, showX: atStep, least: [0] }));
    }
    const times = byAlgo(suite.algos, suite.curves, "seconds");
    if (times.length) {
      const [size, unit] = [[3600, "hours"], [60, "minutes"], [1, "seconds"]].find(
        ([length]) => length === 1 || times.some((own) => Math.max(...own.x) >= length),
      );
      for (const own of times) own.x = own.x.map((seconds) => seconds / size);
      const showX = (time) => `${short(time)} ${unit}`;
      const xlabel = `wall-clock time of a run (${unit})`;
      cards.push(chart("IQM of normalised scores over time", times, { xlabel, digits: 3, showX, least: [0] }));
    }
    const profiles = byAlgo(suite.algos, suite.profiles, "threshold");
    if (profiles.length) {
      const showX = (threshold) => `score above ${fixed(threshold, 2)}`;
      const title = "Performance profile: share of runs above a score";
      cards.push(chart(title, profiles, { xlabel: "normalised score", digits: 3, showX, least: [0, 1] }));
    }
    return cards.length ? [element("h3", {}, "Over all tasks"), element("div", { class: "cards" }, ...cards)] : [];
  }

  /** The algorithms of these rows, in the order of the report. */
  function ordered(suite, rows) {
    const there = new Set(rows.map((row) => row.algo));
    return [...new Set([...suite.algos, ...styles.keys()])].filter((algo) => there.has(algo));
  }

  function learning(suite, curves) {
    const tasks = [...new Set(curves.map((own) => own.task))];
    const algos = ordered(suite, curves);
    const cards = tasks.map((task) => {
      const series = algos.flatMap((algo) => curves.filter((own) => own.task === task && own.algo === algo));
      return chart(task, series, { xlabel: "environment steps", digits: 1, showX: atStep, least: [0] });
    });
    const note =
      "Mean return over the seeds; the band is the 95 % stratified bootstrap confidence interval. " +
      "To see values, point at a chart, or select it with Tab and use the arrow keys.";
    return [
      element("h3", {}, "Learning curves"), element("p", { class: "faint" }, note), legend(algos),
      element("div", { class: "cards" }, ...cards),
    ];
  }

  // Tables -----------------------------------------------------------------------------------------------------------

  /** A table of rows {name, cells: [{text, value}]}. A click on a column sorts it; `filter` selects rows by name. */
  function sortable(head, rows, filter) {
    let [column, down] = [null, false]; // until the first click the rows are as given
    const body = element("tbody");
    const heads = head.map((text, place) => {
      const choose = () => {
        // Numbers are sorted from the highest, names from the first.
        [column, down] = [place, column === place ? !down : place > 0];
        draw();
      };
      return element("th", { scope: "col" }, element("button", { type: "button", onclick: choose }, text));
    });
    function draw() {
      const wanted = filter.value.trim().toLowerCase();
      const shown = rows.filter((row) => row.name.toLowerCase().includes(wanted));
      const value = (row) => (column ? row.cells[column - 1].value : row.name);
      if (column !== null) shown.sort((a, b) => {
        const [one, two] = [value(a), value(b)];
        if (one === null || two === null) return (one === null) - (two === null); // missing values are last in both orders
        const order = column ? one - two : one.localeCompare(two, "en");
        return down ? -order : order;
      });
      heads.forEach((cell, place) => {
        if (place === column) cell.setAttribute("aria-sort", down ? "descending" : "ascending");
        else cell.removeAttribute("aria-sort");
        const mark = place === column ? (down ? " ▾" : " ▴") : "";
        cell.firstChild.replaceChildren(...broken(head[place] + mark));
      });
      body.replaceChildren(...shown.map((row) => element(
        "tr", {}, element("th", { scope: "row" }, ...broken(row.name)),
        ...row.cells.map((cell) => element("td", { class: "number" }, cell.text)),
      )));
      if (!shown.length) {
        body.append(element("tr", {}, element("td", { colspan: head.length }, "No row has this text in its name.")));
      }
    }
    filter.oninput = draw;
    draw();
    return element("table", { class: "data" }, element("thead", {}, element("tr", {}, ...heads)), body);
  }

  /** Whether there are more columns than fit a screen, and fewer rows: then the columns become the rows. */
  const isTurned = (columns, rows) => columns.length > Math.max(6, rows.length);

  /** [head, rows]: tasks by algorithms or pairs (``columns``). */
  function taskRows(suite, records, columns, key, digits, names) {
    const own = new Map(records.map((row) => [JSON.stringify([row.task, ...key(row)]), row]));
    const cell = (task, column) => {
      const row = own.get(JSON.stringify([task, ...column]));
      if (!row || row[names[0]] === null) return { text: "-", value: null };
      const few = names[0] !== "estimate" && row.seeds !== suite.seeds[row.algo] ? ` n=${row.seeds}` : "";
      return { text: interval(row, digits, names) + few, value: row[names[0]] };
    };
    const name = (column) => column.join(" > ");
    if (isTurned(columns, suite.tasks)) {
      const line = (column) => ({ name: name(column), cells: suite.tasks.map((task) => cell(task, column)) });
      return [[columns[0].length > 1 ? "X > Y" : "algorithm", ...suite.tasks], columns.map(line)];
    }
    const line = (task) => ({ name: task, cells: columns.map((column) => cell(task, column)) });
    return [["task", ...columns.map(name)], suite.tasks.map(line)];
  }

  function tasks(suite) {
    const algos = suite.algos.map((algo) => [algo]);
    const couples = suite.improvement.map((row) => [row.algo, row.over]);
    const means = (records, digits, names) => taskRows(suite, records, algos, (row) => [row.algo], digits, names);
    const views = [
      ["mean return", () => means(suite.per_task, 1, ["mean", "low", "high"])],
      ["mean normalised score", () => means(suite.per_task, 3, ["score", "score_low", "score_high"])],
    ];
    if (suite.success.length) {
      views.push(["success rate", () => means(suite.success, 2, ["success", "low", "high"])]);
    }
    if (couples.length) {
      const key = (row) => [row.algo, row.over];
      const names = ["estimate", "low", "high"];
      const rows = () => taskRows(suite, suite.improvement_per_task, couples, key, 2, names);
      views.push(["probability of improvement", rows]);
    }
    const filter = element("input", { type: "search", placeholder: "filter rows", "aria-label": "filter rows" });
    const place = element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "scores of each task" });
    const choice = element(
      "select", { "aria-label": "what to show", onchange: () => draw() },
      ...views.map(([name], k) => element("option", { value: k }, name)),
    );
    function draw() {
      place.replaceChildren(sortable(...views[choice.value][1](), filter));
    }
    draw();
    const note =
      "In brackets: 95 % stratified bootstrap confidence interval; n: number of seeds, where some are missing. " +
      "Click on a column to sort.";
    return [
      element("h3", {}, "Each task"), element("p", { class: "faint" }, note),
      element("div", { class: "tools" }, choice, filter), place,
    ];
  }

  function table(head, rows) {
    return element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": head.join(", ") }, element(
      "table", { class: "data" },
      element("thead", {}, element("tr", {}, ...head.map((text) => element("th", { scope: "col" }, ...broken(text))))),
      element("tbody", {}, ...rows.map(([name, ...cells]) => element(
        "tr", {}, element("th", { scope: "row" }, ...broken(name)),
        ...cells.map((cell) => element("td", { class: "words" }, cell)),
      ))),
    ));
  }

  // Coverage and runs ------------------------------------------------------------------------------------------------

  function coverage(suite, section) {
    const algos = ordered(suite, section.coverage);
    const tasks = [...new Set(section.coverage.map((row) => row.task))];
    const own = new Map(section.coverage.map((row) => [JSON.stringify([row.task, row.algo]), row]));
    const sums = new Map();
    for (const { status, count } of section.coverage.flatMap((row) => row.seeds)) {
      sums.set(status, (sums.get(status) ?? 0) + count);
    }
    const total = [...sums].map(([status, sum]) => `${sum.toLocaleString("en")} ${status}`).join(", ");
    const cell = (task, algo) => element(
      "span", {}, ...own.get(JSON.stringify([task, algo])).seeds.map(({ status, count, which }) => element(
        "span", { class: `seeds ${status}`, title: `seeds ${which}` }, `${count} ${status}`,
        status === "done" ? "" : ` (${which})`,
      )),
    );
    const grid = isTurned(algos, tasks)
      ? table(["algorithm", ...tasks], algos.map((algo) => [algo, ...tasks.map((task) => cell(task, algo))]))
      : table(["task", ...algos], tasks.map((task) => [task, ...algos.map((algo) => cell(task, algo))]));
    const { title, header, rows: gaps } = section.missing;
    return [
      element("h3", {}, "Coverage"),
      algos.length ? element("p", {}, `${total}; the seeds are in brackets.`) : null,
      algos.length ? grid : null,
      element("p", {}, element("b", {}, title)), gaps.length ? table(header, gaps) : null,
    ];
  }

  const GROUPS = {
    config: ["algo", "config_id", "config"],
    protocol: ["protocol", "task", "seed", "group", "status", "error", "published"],
    versions: ["versions", "began", "resumed"],
    hardware: ["device", "machine", "threads", "per_gpu", "precision", "learner", "memory"],
    time: ["started", "ended", "seconds", "startup", "wall"],
  };

  /** The leaves of a nested value, as [path, text]. */
  function flat(name, value) {
    const plain = (item) => item === null || typeof item !== "object";
    if (plain(value)) return [[name, value === null ? "-" : String(value)]];
    if (Array.isArray(value) && value.every(plain)) return [[name, value.join(", ") || "-"]];
    return Object.entries(value).flatMap(([key, inner]) => flat(`${name}.${key}`, inner));
  }
  function facts(run) {
    const record = run.record;
    const known = new Set(["schema", "suite", ...Object.values(GROUPS).flat()]);
    const groups = { ...GROUPS, more: Object.keys(record).filter((key) => !known.has(key)) };
    const cards = Object.entries(groups).map(([title, keys]) => {
      const rows = keys.filter((key) => Object.hasOwn(record, key)).flatMap((key) => flat(key, record[key]));
      const lines = rows.map(([key, value]) =>
        element("tr", {}, element("th", { scope: "row" }, key), element("td", {}, value)));
      return rows.length
        ? element("div", { class: "card" }, element("h4", {}, title), element("table", {}, ...lines)) : null;
    });
    const folder = element("p", { class: "faint" }, run.folder);
    return element("div", {}, folder, element("div", { class: "facts" }, ...cards));
  }

  /** A <details> element whose content is made when it is first opened. */
  function lazy(summary, inside) {
    const node = element("details", {}, element("summary", {}, ...summary));
    node.addEventListener("toggle", () => node.open && node.childElementCount === 1 && node.append(...inside()));
    return node;
  }
  function runs(suite, section) {
    const algos = ordered(suite, section.runs);
    const folds = algos.map((algo) => {
      const own = section.runs.filter((run) => run.algo === algo);
      return lazy([swatch(algo), `${algo}: ${plural(own.length, "run")}`], () => own.map((run) => {
        const seconds = run.record.seconds;
        const time = typeof seconds === "number" ? `, ${duration(seconds)}` : "";
        return lazy([`${run.task}, seed ${run.seed}: ${run.status}${time}`], () => [facts(run)]);
      }));
    });
    const note = element("p", { class: "faint" }, "Config, versions, hardware and time of each run.");
    return [element("h3", {}, "Runs"), note, ...folds];
  }

  // The page ---------------------------------------------------------------------------------------------------------

  function list(title, items, id = null) {
    const lines = items.map((text) => element("li", {}, text));
    return lines.length ? [element("h3", { id }, title), element("ul", {}, ...lines)] : [];
  }
  function section(suite, own, place) {
    const [loud, rest] = suite.comparable ? [[], own.heading] : [own.heading.slice(0, 1), own.heading.slice(1)];
    const count = suite.warnings.length;
    const warnings = element("a", { href: `#warnings-${place}` }, plural(count, "warning"));
    const parts = [
      element("h2", {}, suite.suite),
      ...loud.map((line) => element("p", { class: "loud" }, line)),
      element("div", { class: "verdict" }, ...own.verdict.map((text) => element("p", {}, ...broken(text)))),
      ...[...rest, own.method].map((line) => element("p", { class: "faint" }, line)),
      count ? element("p", { class: "faint" }, warnings) : null,
      ...learning(suite, own.curves), ...overall(suite),
      element("h3", {}, "Aggregate scores over the tasks"),
      element("p", { class: "faint" }, "Points with their 95 % stratified bootstrap confidence intervals."),
      aggregates(suite), ...pairs(suite, own), ...tasks(suite), ...coverage(suite, own),
      ...list("Warnings", suite.warnings, `warnings-${place}`), ...list("Settings", own.settings), ...runs(suite, own),
    ];
    return element("section", { id: `suite-${place}` }, ...parts.filter((part) => part !== null));
  }
  function toggle() {
    const root = document.documentElement;
    const isDark = () =>
      root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    const button = element("button", { type: "button", onclick: () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      label();
    } });
    const label = () => button.replaceChildren(isDark() ? "Light page" : "Dark page");
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);
    label();
    return button;
  }

  const { suites, skipped } = data.report;
  const links = suites.map((suite, place) => element("a", { href: `#suite-${place}` }, suite.suite));
  document.getElementById("report").append(
    element("header", {}, element("h1", {}, "flowbench report"), toggle()),
    ...(suites.length > 1 ? [element("nav", { "aria-label": "suites" }, ...links)] : []),
    ...suites.map((suite, place) => section(suite, data.sections[place], place)),
    ...list("No report", skipped.map(({ suite, reason }) => `${suite}: ${reason}`)),
    element("p", { class: "faint" }, `Made by flowbench ${data.version}. Its docs/reading-a-report.md explains the numbers.`),
  );
})();
