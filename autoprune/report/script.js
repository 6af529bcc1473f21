"use strict";
// Picking, brushing, sorting. All text comes in by textContent: nothing of a database is ever markup here either.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const make = (name, text, attributes = {}) => {
    const element = document.createElement(name);
    if (text !== null && text !== undefined) element.textContent = text;
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };
  const studies = JSON.parse(document.getElementById("facts").textContent);
  const trials = new Map();
  const isKnown = (value) => value !== null && value !== undefined && value !== "";
  const named = (names, row) =>
    Object.fromEntries(names.map((each, i) => [each, row?.[i]]).filter(([, value]) => isKnown(value)));
  studies.forEach((study, s) => study.trials.forEach((trial) => {
    [trial.v, trial.p, trial.t] = [trial.v, trial.p, trial.t].map((row, i) => named(study.keys[i], row));
    trials.set(`${s}.${trial.n}`, { study, trial, s });
  }));
  for (const link of all('a[href^="#t"]')) {
    const key = link.getAttribute("href").slice(2);
    if (trials.has(key)) link.dataset.t = key;
  }
  const number = (value) => (typeof value !== "number" ? String(value) : Number.isInteger(value) ? value.toLocaleString("en")
    : String(Number(value.toPrecision(4))));
  const score = (study, value) => (study.digits === null ? number(value) : value.toFixed(study.digits));
  const fact = (study, key, value) => (key === study.metric ? score(study, value) : number(value));
  const seconds = (value) => (value < 100 ? `${value.toFixed(1)} s` : `${(value / 60).toFixed(1)} min`);
  const STATES = { COMPLETE: "complete", PRUNED: "stopped early", FAIL: "failed", RUNNING: "running", WAITING: "waiting" };
  const name = (key) => (studies.length > 1 ? `${trials.get(key).study.name}, trial ` : "Trial ") + trials.get(key).trial.n;

  function brief(key) {
    const { study, trial } = trials.get(key);
    const values = trial.v;
    const known = [study.metric, study.cost].filter((each) => each in values);
    const said = known.map((each) => `${each} ${fact(study, each, values[each])}`);
    return said.join(", ") || STATES[trial.s];
  }

  // ---- the picked trial
  const panel = document.getElementById("picked");
  const said = document.getElementById("said");
  const bar = make("div", null, { id: "bar" });
  const barText = make("span");
  const toPanel = make("button", "Details", { type: "button" });
  bar.append(barText, toPanel);
  bar.hidden = true;
  document.body.append(bar);
  let picked = null;
  let panelSeen = true;

  function list(pairs, kind) {
    const found = make("dl", null, { class: kind });
    for (const [term, value] of pairs) if (isKnown(value)) found.append(make("dt", term), make("dd", value));
    return found;
  }

  function facts({ study, trial }) {
    const values = Object.entries(trial.v).map(([key, value]) => [key, fact(study, key, value)]);
    if (trial.e) {
      const [mean, sd, n] = trial.e;
      const deviation = sd === null ? "" : ` ± ${score(study, sd)}`;
      values.splice(1, 0, [`test ${study.metric}`, `${score(study, mean)}${deviation}, ${n} seed${n > 1 ? "s" : ""}`]);
    }
    const own = trial.i ? [["images, fine-tuning", number(trial.i)]] : [];
    const whole = trial.li ? [["images, lineage", number(trial.li)]] : [];
    const searched = Object.entries(trial.p).map(([key, value]) => [key, number(value)]);
    const times = Object.entries(trial.t).filter(([, value]) => value >= 0.05);
    const work = [...own, ...whole, ...times.map(([key, value]) => [key, seconds(value)]), ["machine", trial.h]];
    return { values, searched, work };
  }

  function widths({ study, trial, s }) {
    const rows = make("div", null, { class: "bars" });
    trial.w.forEach((kept, i) => {
      const [group, dense] = study.groups[i];
      const outer = make("i");
      const inner = make("b");
      inner.style.width = `${Math.min(100, (100 * kept) / dense)}%`;
      inner.style.background = `var(--s${s})`;
      outer.append(inner);
      rows.append(make("span", group, { class: "group" }), outer, make("span", `${kept} / ${dense}`, { class: "kept" }));
    });
    return rows;
  }

  function link(key, text) {
    return make("a", text, { href: `#t${key}`, "data-t": key });
  }

  function chain({ study, trial, s }) {
    const line = make("p", "dense", { class: "chain" });
    for (const before of trial.l) {
      const values = study.trials.find((each) => each.n === before)?.v || {};
      const cost = study.cost in values ? ` (${number(values[study.cost])})` : "";
      line.append(" → ");
      line.append(before === trial.n ? make("b", `${before}${cost}`) : link(`${s}.${before}`, `${before}${cost}`));
    }
    return line;
  }

  function command(text) {
    const row = make("div", null, { class: "command" });
    const code = make("code", text);
    const copy = make("button", "Copy", { type: "button", "aria-label": `Copy: ${text}` });
    copy.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text);
        copy.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(code); // A page that may not write the clipboard can still mark the text.
        copy.textContent = "Marked";
      }
      setTimeout(() => { copy.textContent = "Copy"; }, 1500);
    });
    row.append(code, copy);
    return row;
  }

  function commands({ study, trial }) {
    const found = [command(`autoprune show ${study.quoted} ${trial.n}${study.storage}`)];
    if (trial.s !== "COMPLETE") return found;
    for (const ending of ["py", "pt2", "onnx", "safetensors"]) {
      found.push(command(`autoprune export ${study.quoted} ${trial.n} --to trial-${trial.n}.${ending}${study.storage}`));
    }
    if (!study.front.includes(trial.n)) {
      const note = "It is not on the front, so its network is kept only where the study keeps all.";
      found.push(make("p", note, { class: "quiet" }));
    }
    return found;
  }

  function show(key) {
    const entry = trials.get(key);
    const { study, trial, s } = entry;
    const isOn = study.front.includes(trial.n);
    const badges = make("p");
    badges.append(make("span", STATES[trial.s], { class: "badge" }));
    if (trial.s === "COMPLETE" && !trial.b) {
      badges.append(make("span", isOn ? "on the front" : "dominated", { class: isOn ? "badge on" : "badge" }));
    }
    if (trial.b) badges.append(make("span", "breaks a constraint", { class: "badge" }));
    panel.replaceChildren(make("h2", name(key), { tabindex: "-1" }), badges);
    const { values, searched, work } = facts(entry);
    const part = (heading, ...content) => panel.append(make("h3", heading), ...content);
    panel.append(list(values, "facts"));
    part("Take it away", ...commands(entry));
    if (trial.w) part("Widths, kept / dense", widths(entry));
    if (trial.l) part("Lineage", chain(entry));
    if (trial.r) part("Rungs", make("p", trial.r.map((each) => score(study, each)).join(" → "), { class: "chain" }));
    if (trial.o !== undefined) part("Taken over", link(`${s}.${trial.o}`, `Its result is that of trial ${trial.o}`));
    if (trial.a !== undefined) part("Second try", link(`${s}.${trial.a}`, `It tried trial ${trial.a} again`));
    if (trial.x) part(trial.s === "FAIL" ? "Why it failed" : "Why it was stopped", make("p", trial.x, { class: "quiet" }));
    if (searched.length) part("Proposed", list(searched, "facts"));
    if (trial.y) panel.append(make("p", `Why: ${trial.y}`, { class: "quiet why" }));
    if (work.some(([, value]) => isKnown(value))) part("Work", list(work, "facts"));
  }

  function pick(key, { isTold = true } = {}) {
    if (!trials.has(key)) return;
    if (picked) all(`[data-t="${picked}"]`).forEach((each) => mark(each, false));
    picked = key;
    all(`[data-t="${key}"]`).forEach((each) => mark(each, true));
    show(key);
    barText.textContent = `${name(key)}: ${brief(key)}`;
    bar.hidden = panelSeen || !isTold;
    if (!isTold) return;
    said.textContent = `Picked: ${name(key)}, ${brief(key)}`;
    history.replaceState(null, "", `#t${key}`);
  }

  function mark(element, isOn) {
    (element.closest("td") ? element.closest("tr") : element).classList.toggle("picked", isOn);
  }

  toPanel.addEventListener("click", () => {
    panel.scrollIntoView({ block: "nearest" });
    panel.querySelector("h2").focus({ preventScroll: true });
  });
  new IntersectionObserver(([entry]) => {
    panelSeen = entry.isIntersecting;
    if (panelSeen) bar.hidden = true;
  }).observe(panel);

  // ---- pointer and keyboard
  const NEAR = 16;
  function nearest(svg, event) {
    let best = null;
    let least = NEAR;
    for (const each of all("[data-t]:is(circle, path:not(.curve)):not(.off)", svg)) {
      const box = each.getBoundingClientRect();
      const isFront = each.classList.contains("front");
      const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
      const away = Math.hypot(event.clientX - x, event.clientY - y) - (isFront ? 2 : 0);
      if (away < least) [best, least] = [each, away];
    }
    return best;
  }
  const under = (event) => {
    const direct = event.target.closest?.("[data-t]");
    const chart = event.target.closest?.("figure#front svg[data-marks]");
    return chart ? nearest(chart, event) || direct : direct;
  };

  document.addEventListener("click", (event) => {
    const found = under(event);
    if (!found) return;
    event.preventDefault();
    pick(found.dataset.t);
    if (found.tabIndex === -1 && found.closest("svg")) rove(found);
  });

  const tip = document.getElementById("tip");
  let waiting = null;
  document.addEventListener("pointermove", (event) => {
    if (waiting || event.buttons) return;
    waiting = requestAnimationFrame(() => {
      waiting = null;
      const found = event.target.closest?.("svg") ? under(event) : null;
      tip.hidden = !found;
      if (!found) return;
      tip.textContent = `${name(found.dataset.t)}\n${brief(found.dataset.t).replaceAll(", ", "\n")}`;
      const side = event.clientX > innerWidth - 220 ? -tip.offsetWidth - 14 : 14;
      tip.style.left = `${event.clientX + side}px`;
      tip.style.top = `${Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 6)}px`;
    });
  });
  document.addEventListener("pointerleave", () => { tip.hidden = true; });

  function rove(to) {
    const svg = to.closest("svg");
    all('[data-t][tabindex="0"]', svg).forEach((each) => each.setAttribute("tabindex", "-1"));
    to.setAttribute("tabindex", "0");
    if (!to.hasAttribute("aria-label")) {
      to.setAttribute("aria-label", `${name(to.dataset.t)}: ${brief(to.dataset.t)}`);
      to.setAttribute("role", "button");
    }
    to.focus();
  }
  const spot = (element) => {
    const box = element.getBBox();
    return box.x + box.width / 2;
  };
  function step(from, key) {
    const isAny = key === "ArrowUp" || key === "ArrowDown";
    const svg = from.closest("svg");
    let marks = all(isAny ? "[data-t]:not(.off)" : "[data-t][aria-label].front:not(.off), .column[data-t]", svg);
    if (isAny) marks = marks.map((each) => [spot(each), each]).sort((a, b) => a[0] - b[0]).map(([, each]) => each);
    const at = marks.indexOf(from);
    if (key === "Home") return marks[0];
    if (key === "End") return marks.at(-1);
    const forwards = key === "ArrowRight" || key === "ArrowUp";
    if (at < 0) {
      const byDistance = marks.map((each) => [Math.abs(spot(each) - spot(from)), each]).sort((a, b) => a[0] - b[0]);
      return byDistance[0]?.[1];
    }
    return marks[at + (forwards ? 1 : -1)];
  }
  document.addEventListener("keydown", (event) => {
    const from = event.target.closest?.("svg [data-t]");
    if (!from) return;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      pick(from.dataset.t);
    } else if (["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"].includes(event.key)) {
      event.preventDefault();
      const to = step(from, event.key);
      if (to) rove(to);
    }
  });

  for (const svg of all("svg[role]")) {
    // A title would pop up over every point of the chart; as a label it says the same.
    const title = svg.querySelector(":scope > title");
    svg.setAttribute("aria-label", title.textContent);
    svg.removeAttribute("aria-labelledby");
    title.remove();
    svg.querySelector("[data-t][aria-label]")?.setAttribute("tabindex", "0");
  }

  // ---- brushing
  const whole = document.querySelector(".brush"); // Before anything is brushed it is as long as an axis.
  const TOP = Number(whole?.getAttribute("y"));
  const BOTTOM = TOP + Number(whole?.getAttribute("height"));
  class Brush {
    constructor(root) {
      this.root = root;
      this.svg = root.querySelector("svg[data-marks]");
      this.output = root.querySelector(".brushed");
      this.button = root.querySelector(".unbrush");
      const heights = (path) => path.getAttribute("d").slice(1).split("L").map((each) => Number(each.split(",")[1]));
      this.curves = all(".curve", this.svg).map((path) => [path, heights(path)]);
      this.axes = all(".brush-axis", this.svg).map((group) => ({ group, upper: TOP, lower: BOTTOM }));
      this.axes.forEach((axis) => this.listen(axis));
      this.button.addEventListener("click", () => this.reset());
      this.svg.addEventListener("keydown", (event) => { if (event.key === "Escape") this.reset(); });
      const study = root.dataset.study;
      this.others = new Map();
      for (const each of all(`figure#front svg [data-t^="${study}."], #trials-${study} td [data-t]`)) {
        const row = each.closest("tr") || each;
        this.others.set(row, each.dataset.t);
      }
    }

    listen(axis) {
      const place = (event) => {
        const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(this.svg.getScreenCTM().inverse());
        return Math.min(BOTTOM, Math.max(TOP, point.y));
      };
      let start = null;
      let end = null;
      axis.group.addEventListener("pointerdown", (event) => {
        if (event.button) return;
        event.preventDefault();
        axis.group.setPointerCapture(event.pointerId);
        end = event.target.dataset.end || null;
        start = place(event);
        if (end) event.target.focus();
      });
      axis.group.addEventListener("pointermove", (event) => {
        if (start === null) return;
        const here = place(event);
        if (end) this.set(axis, end === "upper" ? { upper: here } : { lower: here });
        else if (Math.abs(here - start) > 3) this.set(axis, { upper: Math.min(start, here), lower: Math.max(start, here) });
      });
      axis.group.addEventListener("pointerup", (event) => {
        if (start !== null && !end && Math.abs(place(event) - start) <= 3) this.set(axis, { upper: TOP, lower: BOTTOM });
        start = null;
      });
      axis.group.addEventListener("pointercancel", () => { start = null; });
      for (const handle of all(".handle", axis.group)) {
        handle.addEventListener("keydown", (event) => {
          const steps = { ArrowUp: -7, ArrowDown: 7, PageUp: -28, PageDown: 28 };
          const which = handle.dataset.end;
          const ends = { Home: BOTTOM, End: TOP };
          if (!(event.key in steps) && !(event.key in ends)) return;
          event.preventDefault();
          const to = event.key in ends ? ends[event.key] : axis[which] + steps[event.key];
          this.set(axis, { [which]: Math.min(BOTTOM, Math.max(TOP, to)) });
        });
      }
    }

    set(axis, change) {
      const next = { upper: axis.upper, lower: axis.lower, ...change };
      if (next.upper > next.lower) return;
      Object.assign(axis, next);
      this.draw(axis);
      cancelAnimationFrame(this.frame);
      this.frame = requestAnimationFrame(() => this.apply());
    }

    draw(axis) {
      const isOn = axis.upper > TOP || axis.lower < BOTTOM;
      axis.group.classList.toggle("on", isOn);
      const box = axis.group.querySelector(".brush");
      box.setAttribute("y", axis.upper);
      box.setAttribute("height", axis.lower - axis.upper);
      for (const handle of all(".handle", axis.group)) {
        const which = handle.dataset.end;
        const from = which === "upper" ? TOP : BOTTOM;
        handle.setAttribute("transform", `translate(0 ${axis[which] - from})`);
        handle.setAttribute("aria-valuenow", Math.round((100 * (BOTTOM - axis[which])) / (BOTTOM - TOP)));
        handle.setAttribute("aria-valuetext", this.valueText(axis, axis[which]));
      }
    }

    valueText(axis, y) {
      const text = axis.group.dataset.scale;
      const share = (BOTTOM - y) / (BOTTOM - TOP);
      const numbers = text.split(" ").map(Number);
      if (numbers.length !== 3 || numbers.some(Number.isNaN)) {
        const choices = text.split("|");
        return choices[Math.min(choices.length - 1, Math.max(0, Math.round(share * (choices.length - 1))))];
      }
      const [low, high, isLog] = numbers;
      return number(isLog ? low * (high / low) ** share : low + share * (high - low));
    }

    apply() {
      const active = this.axes.map((axis, i) => [i, axis]).filter(([, axis]) => axis.group.classList.contains("on"));
      const kept = new Set();
      for (const [path, heights] of this.curves) {
        const isIn = active.every(([i, axis]) => heights[i] >= axis.upper - 0.51 && heights[i] <= axis.lower + 0.51);
        path.classList.toggle("off", !isIn);
        if (isIn) kept.add(path.dataset.t);
      }
      for (const [element, key] of this.others) element.classList.toggle("off", active.length > 0 && !kept.has(key));
      this.button.hidden = !active.length;
      this.output.textContent = `${kept.size} of ${this.curves.length} trials`;
    }

    reset() {
      for (const axis of this.axes) this.set(axis, { upper: TOP, lower: BOTTOM });
    }

    get isActive() {
      return !this.button.hidden;
    }
  }
  const brushes = all(".brushable").map((root) => new Brush(root));

  // ---- tables
  function sortBy(header) {
    const table = header.closest("table");
    const at = [...header.parentNode.children].indexOf(header);
    const isUp = header.getAttribute("aria-sort") !== "ascending";
    const value = (row) => {
      const text = row.cells[at].textContent;
      const plain = Number(text.replaceAll(",", ""));
      return text === "" || text === "–" ? null : Number.isNaN(plain) ? text : plain;
    };
    const compare = (a, b) => (typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1);
    const rows = [...table.tBodies[0].rows].map((row) => [value(row), row]);
    rows.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : isUp ? compare(a, b) : compare(b, a)));
    all("th[aria-sort]", table).forEach((each) => each.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", isUp ? "ascending" : "descending");
    table.tBodies[0].append(...rows.map(([, row]) => row));
  }
  for (const header of all("table:has(tbody tr:nth-child(2)) th")) {
    const button = make("button", header.textContent, { type: "button" });
    button.addEventListener("click", () => sortBy(header));
    header.replaceChildren(button);
  }
  addEventListener("beforeprint", () => {
    all("details.data").forEach((each) => { if (each.querySelectorAll("tr").length <= 60) each.open = true; });
  });
  function follow() {
    const place = location.hash.slice(1);
    const target = document.getElementById(place);
    target?.closest("details")?.setAttribute("open", "");
    if (place.startsWith("t") && trials.has(place.slice(1))) pick(place.slice(1));
    else if (target?.closest("details")) target.scrollIntoView();
  }
  addEventListener("hashchange", follow);

  // ---- at the start: what the address says, else the member farthest from the line between the front's ends
  function knee() {
    const { front, metric, cost, trials: known } = studies[0];
    const points = front.map((n) => known.find((each) => each.n === n));
    if (!points.length) return null;
    const [x0, y0] = [points[0].v[cost], points[0].v[metric]];
    const [x1, y1] = [points.at(-1).v[cost] - x0 || 1, points.at(-1).v[metric] - y0 || 1];
    const gain = ({ v }) => (v[metric] - y0) / y1 - (v[cost] - x0) / x1;
    return points.reduce((best, each) => (gain(each) > gain(best) ? each : best)).n;
  }
  const first = knee();
  if (first !== null) pick(`0.${first}`, { isTold: false });
  follow();

  // ---- live
  if (document.body.hasAttribute("data-live")) {
    const state = document.getElementById("live-state");
    const wants = document.getElementById("follow");
    const version = document.documentElement.dataset.version;
    const ask = async () => {
      try {
        const now = await (await fetch("version", { cache: "no-store" })).text();
        const isNews = now !== version;
        state.classList.toggle("stale", false);
        state.textContent = isNews ? "there is news: reload to see it" : "live";
        // Whoever is brushing or reads by keyboard is not torn away from it.
        const isBusy = brushes.some((brush) => brush.isActive) || document.activeElement?.closest("svg, table");
        if (isNews && wants.checked && !isBusy && !document.hidden) location.reload();
      } catch {
        state.classList.toggle("stale", true);
        state.textContent = "the server has ended";
      }
    };
    setInterval(ask, 2000);
  }
})();
