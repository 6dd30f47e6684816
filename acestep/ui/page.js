// The page's own script: shows the engine's jobs, keeps drafts, and knows two keys.
// What comes from the server becomes text, never HTML.
const acestep = (() => {
  "use strict";
  const BUSY = 300, IDLE = 2000, HIDDEN = 5000, SOON = 100; // milliseconds between two looks
  const FITTING = 5000; // milliseconds that fitting the forms may take
  const DRAFT = "acestep-draft", OWN = "acestep-jobs", TAB = "acestep-tab";
  const SCHEMA = 1; // of a draft; another one is not read
  const KEPT = 100; // ids of jobs that a tab remembers as its own
  const KEEP = { __type__: "update" }; // in Gradio's words: leave this component as it is
  // Read now: Gradio opens the first tab while it draws the page, and says so.
  const lastTab = sessionStorage.getItem(TAB);
  const at = (id) => document.getElementById(id);

  // --- what is shown -------------------------------------------------------------------------

  const rows = new Map(); // by id: { row, element, began }
  let version = 0, life = null, mark = null, every = false, older = 0, engineIsBusy = true;
  let edits = {}, take = null, fit = null; // set by Gradio's parts once they are drawn
  const own = read(sessionStorage, OWN) ?? []; // the jobs that this tab asked for

  function make(tag, properties = {}, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  }

  function say(element, words) {
    if (element.textContent !== words) element.textContent = words; // or it is read out again
  }

  function show(element, isShown) {
    if (element.hidden === isShown) element.hidden = !isShown;
  }

  function notice(words) {
    say(at("notice"), words);
    show(at("notice"), words !== "");
  }

  function apply(answer) {
    if (life !== null && answer.life !== life) return location.reload(); // another server
    if (version === 0) older = answer.older;
    life = answer.life;
    const isFirst = version === 0;
    version = answer.version;
    for (const row of answer.rows) put(row, isFirst);
    say(document.querySelector("#status [role=status]"), answer.engine.said);
    say(at("engine"), answer.engine.planner && `Planner: ${answer.engine.planner}`);
    show(at("engine"), answer.engine.planner !== "");
    say(at("show-all"), `Show all: ${older} more`);
    show(at("show-all"), older > 0);
    engineIsBusy = answer.engine.busy;
    if (answer.engine.mark !== mark) {
      mark = answer.engine.mark;
      fittingUntil = Date.now() + FITTING;
      fit("click", {});
    }
  }

  function put(row, isOld) {
    let known = rows.get(row.id);
    if (row.is_gone) {
      known?.element.remove();
      rows.delete(row.id);
      return;
    }
    if (known === undefined) {
      known = { element: blank(row) };
      rows.set(row.id, known);
      const below = [...at("jobs").children].find((other) => Number(other.dataset.order) < row.order);
      at("jobs").insertBefore(known.element, below ?? null);
    }
    known.row = row;
    known.began = Date.now() / 1000 - row.seconds;
    const part = (name) => known.element.querySelector(`:scope > ${name}`);
    known.element.dataset.state = row.state;
    part(".running").classList.toggle("warning", isBad(row));
    say(part(".head").firstChild, row.title);
    say(part(".head").lastChild, row.asked);
    show(part(".row").firstChild, row.can_cancel);
    show(part(".row .rerun"), row.can_rerun);
    if (part(".row").querySelectorAll(".retry").length !== row.retries.length)
      part(".row").append(...row.retries.map((each) => retryOf(row, each)));
    if (part(".takes").childElementCount !== row.takes.length)
      part(".takes").replaceChildren(...row.takes.map((each, n) => takeOf(row, each, n, isOld)));
  }

  function button(words, name, act) {
    return make("button", { type: "button", className: `save ${name}`, onclick: act }, words);
  }

  function retryOf(row, { setting, words }) {
    return button(words, "retry", () => post("retry", { id: row.id, setting }));
  }

  function blank(row) {
    const element = make(
      "li",
      { id: `job-${row.id}`, className: "job" },
      make("p", { className: "head" }, make("strong"), make("span")),
      make(
        "div",
        { className: "running" },
        make("span"),
        make("span", { className: "time" }),
        make("progress", { ariaLabel: "Progress of this stage" }),
      ),
      make("div", { className: "takes" }),
      make(
        "div",
        { className: "row" },
        button("Cancel", "cancel", () => post("cancel", { id: row.id })),
        button("Run again", "rerun", () => post("rerun", { id: row.id })),
      ),
    );
    element.dataset.order = row.order;
    return element;
  }

  function takeOf(row, each, number, isOld) {
    const link = (words, name, href) =>
      make("a", { className: `save ${name}`, href: `${href}?save=true`, download: "" }, words);
    const send = ([task, words]) =>
      make(
        "button",
        {
          type: "button",
          className: `save send-${task}`,
          onclick: () => take("click", { task, job: row.id, take: number }),
        },
        words,
      );
    return make(
      "article",
      { className: "take", ariaLabel: each.name },
      make("p", { className: "name" }, each.name),
      make("audio", {
        controls: true,
        preload: isOld ? "none" : "metadata",
        src: each.song,
        ariaLabel: each.name,
      }),
      make(
        "div",
        { className: "facts" },
        ...each.facts.map((words) => make("p", {}, words)),
        ...each.notes.map((words) => make("p", { className: "warning" }, `Note: ${words}`)),
      ),
      make(
        "div",
        { className: "row" },
        link(each.download, "download", each.song),
        link("Recipe (JSON)", "recipe", each.recipe),
        ...Object.entries(edits).map(send),
      ),
    );
  }

  const isOpen = ({ row }) => row.can_cancel;
  const isBad = (row) => row.state === "failed" || row.state === "lost";

  // The job that stands beside Generate, and that Cancel and Esc end: what this tab asked for and
  // is not over; else what runs, whoever asked for it; else the last that this tab asked for.
  function foremost() {
    const mine = own.map((id) => rows.get(id)).filter((known) => known !== undefined);
    const runs = (known) => known.row.state === "running";
    return (
      mine.find(runs) ?? mine.find(isOpen) ?? [...rows.values()].find(runs) ?? mine.at(-1) ?? null
    );
  }

  function refresh() {
    for (const known of rows.values()) line(known.element.querySelector(":scope > .running"), known);
    const known = foremost();
    show(at("progress"), known !== null);
    show(at("cancel"), known !== null && isOpen(known));
    if (known === null) return say(document.querySelector("#progress a"), "");
    document.querySelector("#progress a").href = `#job-${known.row.id}`;
    at("progress").classList.toggle("warning", isBad(known.row));
    line(at("progress"), known);
  }

  function line(element, { row, began }) {
    const [words, time, bar] = element.children;
    const runs = row.state === "running";
    say(words.firstElementChild ?? words, row.said);
    say(time, runs ? `${Math.max(Date.now() / 1000 - began, 0).toFixed(0)} s` : "");
    show(bar, runs);
    if (row.total === null) return bar.removeAttribute("value");
    bar.max = row.total;
    bar.value = row.done;
  }

  // --- asking the server ---------------------------------------------------------------------

  let timer = 0, asking = false;

  async function look() {
    clearTimeout(timer);
    if (asking) return;
    asking = true;
    let pause = SOON;
    try {
      if (at("jobs") !== null && take !== null && fit !== null) {
        const answer = await fetch(`live?since=${version}&every=${every}`);
        if (answer.status === 401) return location.reload(); // signed out
        if (!answer.ok) throw new Error(answer.statusText);
        apply(await answer.json());
        refresh();
        const isBusy = engineIsBusy || [...rows.values()].some(isOpen);
        pause = document.hidden ? HIDDEN : isBusy ? BUSY : IDLE;
      }
    } catch {
      say(document.querySelector("#status [role=status]"), "Connection lost. Trying again …");
      pause = IDLE;
    } finally {
      asking = false;
    }
    timer = setTimeout(look, pause);
  }

  async function post(verb, asked) {
    const answer = await fetch(`live/${verb}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(asked),
    });
    const told = await answer.json();
    notice(told?.error ?? "");
    if (told?.id !== undefined) return follow(told.id); // it runs again, as another job
    look();
  }

  function follow(id) {
    if (id === "") return; // refused
    own.push(id);
    write(sessionStorage, OWN, own.slice(-KEPT));
    notice("");
    look();
  }

  function cancel() {
    const known = foremost();
    if (known !== null && isOpen(known)) post("cancel", { id: known.row.id });
  }

  // --- drafts --------------------------------------------------------------------------------

  // What differs from the form as it was drawn and fitted to the model, by the field's id. What a
  // model's preset fitted is thereby not part of it. A tab has its own; a new one begins with the
  // last that was written anywhere.
  let names = [], fitted = null, draft = {}, fittingUntil = 0;
  // The ids around what was typed since the last fitting: it is the person's, not the model's.
  let typed = new Set();
  const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);

  function read(store, key) {
    try {
      return JSON.parse(store.getItem(key));
    } catch {
      return null; // not ours
    }
  }

  function write(store, key, value) {
    try {
      store.setItem(key, JSON.stringify(value));
    } catch {
      // The browser's store is full or forbidden: there is no draft then, and nothing else.
    }
  }

  function changed(values) {
    if (fitted === null || Date.now() < fittingUntil) return;
    draft = Object.fromEntries(
      names.map((name, n) => [name, values[n]]).filter((_, n) => !same(values[n], fitted[n])),
    );
    keep();
  }

  function keep() {
    for (const store of [sessionStorage, localStorage]) write(store, DRAFT, { v: SCHEMA, d: draft });
  }

  // Whether a value of a draft is still there: a file may have been swept from the server.
  async function isThere(value) {
    if (typeof value?.path !== "string") return true;
    value.url = new URL(`gradio_api/file=${value.path}`, document.baseURI).href; // of this server
    return (await fetch(value.url, { method: "HEAD" }).catch(() => null))?.ok ?? false;
  }

  async function restore() {
    const found = [read(sessionStorage, DRAFT), read(localStorage, DRAFT)];
    draft = found.find((each) => each?.v === SCHEMA)?.d ?? {};
    for (const [name, value] of Object.entries(draft)) {
      if (await isThere(value)) continue;
      delete draft[name];
      notice(`${value.orig_name ?? "A file"} is no longer here. Choose it again.`);
    }
    if (lastTab !== null) document.querySelector(`[role=tab][data-tab-id="${lastTab}"]`)?.click();
  }

  async function afterFitting(values) {
    const isFirst = fitted === null;
    if (isFirst) {
      fitted = [...values];
      await restore();
    }
    names.forEach((name, n) => {
      if (!typed.has(name)) {
        if (!(name in draft)) fitted[n] = values[n];
      } else if (isFirst || !same(values[n], fitted[n])) {
        if (isFirst) fitted[n] = null; // what it was before nobody knows
        draft[name] = values[n];
        keep();
      }
    });
    [typed, fittingUntil] = [new Set(), 0];
    return names.map((name, n) =>
      name in draft && !same(draft[name], values[n]) ? draft[name] : KEEP,
    );
  }

  function opened(task) {
    sessionStorage.setItem(TAB, task);
    return task;
  }

  // --- keys ----------------------------------------------------------------------------------

  // What closes itself on Esc: a list, a dialog, the menu of a player.
  const CLOSES = "[role=listbox], [role=combobox], [role=dialog], [role=menu], dialog, select, audio";

  function onEscape(event) {
    const isOpenSomewhere = [...document.querySelectorAll("[role=listbox], [role=dialog], dialog[open]")]
      .some((each) => each.tagName !== "INPUT" && each.offsetParent !== null);
    if (isOpenSomewhere || event.target.closest?.(CLOSES)) return;
    cancel();
  }

  function onGenerateKey(event) {
    event.preventDefault();
    // A text box sends its value when it loses the focus; the click must come after that.
    document.activeElement?.blur?.();
    setTimeout(() => at("generate")?.click(), 50);
  }

  // Before anything else hears the key: a list that closes on it is still open then.
  document.addEventListener(
    "keydown",
    (event) => {
      if (event.key === "Escape") onEscape(event);
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) onGenerateKey(event);
    },
    true,
  );
  document.addEventListener("click", ({ target }) => {
    if (target.id === "cancel") cancel();
    if (target.id !== "show-all") return;
    [every, version] = [true, 0];
    look();
  });
  document.addEventListener(
    "input",
    ({ target }) => {
      for (let each = target; each; each = each.parentElement) if (each.id) typed.add(each.id);
    },
    true,
  );
  document.addEventListener("visibilitychange", look);
  document.addEventListener(
    "play",
    ({ target }) => {
      for (const other of document.querySelectorAll("audio")) if (other !== target) other.pause();
    },
    true,
  );
  look();

  return {
    follow,
    opened,
    changed,
    afterFitting,
    onTake: (known, trigger) => ([edits, take] = [known, trigger]),
    onFit: (known, trigger) => ([names, fit] = [known, trigger]),
  };
})();
