"use strict";
// Draws the trees of the report. Every text is put in as text (textContent): nothing a model wrote becomes markup.
(() => {
  const source = document.getElementById("tree-data");
  const list = document.getElementById("tree-list");
  if (!source || !list) return;
  const data = JSON.parse(source.textContent);
  const { texts, trees, files, filters } = data;
  const view = document.getElementById("tree-view");
  const status = document.getElementById("tree-status");
  const search = document.getElementById("tree-search");
  const fileChoice = document.getElementById("tree-file");
  const order = document.getElementById("tree-order");
  const buttons = [...document.querySelectorAll("[data-filter]")];
  const PAGE = 60; // rows that are added to the list at a time
  const OUTCOMES = ["first", "second", "tie", "unparsed", "error"];
  const BAD = new Set(["wrong", "failed", "disagree", "no_signal"]);
  let matches = [];
  let drawn = 0;
  let beside = [];

  function element(tag, className, ...content) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    node.append(...content.filter((part) => part !== null && part !== undefined));
    return node;
  }

  function modelText(number, tag = "div") {
    const node = element(tag, "text", texts[number]);
    node.dir = "auto";
    return node;
  }

  function count(number, word) {
    return `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;
  }

  function signed(number) {
    return number.toFixed(2).replace("-", "\u2212");
  }

  function placeOf(tree) {
    const file = files[tree.file];
    return file.model ? `${file.model}, ${file.place}` : file.place;
  }

  function badges(tree) {
    const nodes = tree.flags.map((flag) => element("span", BAD.has(flag) ? "badge bad" : "badge", filters[flag]));
    if (tree.right === true) nodes.unshift(element("span", "badge good", "right answer"));
    return nodes;
  }

  // The words of a tree in one string, made when it is first searched.
  const words = new Map();
  function wordsOf(tree) {
    if (!words.has(tree)) {
      const parts = [tree.id, texts[tree.question], tree.error === null ? "" : texts[tree.error]];
      for (const level of tree.levels) {
        for (const step of level.steps) parts.push(texts[step[0]]);
        if (level.verdict) for (const vote of level.verdict.votes) parts.push(texts[vote[3]]);
      }
      words.set(tree, parts.join("\n").toLowerCase());
    }
    return words.get(tree);
  }

  function refresh() {
    const wanted = buttons.filter((button) => button.getAttribute("aria-pressed") === "true").map((b) => b.dataset.filter);
    const query = search.value.trim().toLowerCase();
    matches = trees.filter((tree) =>
      (fileChoice.value === "" || tree.file === Number(fileChoice.value)) &&
      wanted.every((flag) => tree.flags.includes(flag)) &&
      (query === "" || wordsOf(tree).includes(query)));
    const keys = { length: (tree) => -tree.length, margin: (tree) => tree.margin ?? 2, file: (tree) => tree.file };
    const key = keys[order.value];
    matches.sort((a, b) => key(a) - key(b));
    list.replaceChildren();
    drawn = 0;
    more();
    status.textContent = `${count(matches.length, "tree")} of ${trees.length.toLocaleString("en")}`;
  }

  function more() {
    list.querySelector(".more")?.remove();
    for (const tree of matches.slice(drawn, drawn + PAGE)) {
      const button = element("button", "", modelText(tree.question, "span"), element("small", "", `${placeOf(tree)} · ${tree.id}`),
        element("div", "", ...badges(tree)));
      button.type = "button";
      button.addEventListener("click", () => open([tree], button));
      list.append(element("li", "", button));
    }
    drawn = Math.min(drawn + PAGE, matches.length);
    if (drawn < matches.length) {
      const button = element("button", "", `${count(matches.length - drawn, "more tree")}`);
      button.type = "button";
      button.addEventListener("click", () => { const place = drawn; more(); list.children[place].firstChild.focus(); });
      list.append(element("li", "more", button));
    }
  }

  function open(chosen, button) {
    beside = chosen;
    for (const row of list.querySelectorAll("[aria-current]")) row.removeAttribute("aria-current");
    if (button) button.setAttribute("aria-current", "true");
    view.replaceChildren(head(chosen[0]), element("div", "beside", ...chosen.map(drawTree)));
    if (button) view.focus({ preventScroll: window.innerWidth > 768 });
  }

  function head(tree) {
    const box = element("div", "", element("h3", "", tree.id), modelText(tree.question));
    const twins = trees.filter((twin) => twin !== tree && twin.id === tree.id && twin.question === tree.question);
    if (twins.length === 0) return box;
    const row = element("div", "others", "Beside it:");
    for (const twin of twins) {
      const button = element("button", "", placeOf(twin));
      button.type = "button";
      button.setAttribute("aria-pressed", String(beside.includes(twin)));
      button.addEventListener("click", () => {
        open(beside.includes(twin) ? beside.filter((other) => other !== twin) : [...beside, twin], null);
        [...view.querySelectorAll(".others button")].find((other) => other.textContent === button.textContent)?.focus();
      });
      row.append(button);
    }
    box.append(row);
    return box;
  }

  function drawTree(tree) {
    const [requests, prompt, sampled] = tree.usage;
    const facts = [tree.status.replaceAll("_", " "), count(tree.rollbacks, "roll-back"), count(requests, "request"),
      count(prompt, "prompt token"), count(sampled, "sampled token"), `${tree.seconds} s`];
    const box = element("article", "tree", element("h4", "", placeOf(tree)), element("div", "", ...badges(tree)),
      element("p", "quiet", facts.join(" · ")));
    if (tree.error !== null) box.append(element("p", "warning", "failed: "), modelText(tree.error));
    for (const level of tree.levels) box.append(drawLevel(level));
    return box;
  }

  function drawLevel(level) {
    const verdict = level.verdict;
    const margin = verdict && verdict.margin !== null ? `, margin ${verdict.margin.toFixed(2)}` : "";
    const title = `Step ${level.depth}: ${level.outcome}${margin}`;
    const box = element("div", level.abandoned ? "level left" : "level", element("h4", "", title));
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", title);
    box.append(element("div", "steps", ...level.steps.map((step, place) => drawStep(level, step, place))));
    if (verdict && verdict.error !== null) box.append(element("p", "warning", "the judge failed: "), modelText(verdict.error));
    if (verdict && verdict.votes.length) box.append(drawVotes(level));
    return box;
  }

  function drawStep(level, step, place) {
    const [text, times, logprob, tokens, ends, flaws] = step;
    const judged = level.judged.indexOf(place);
    const verdict = level.verdict;
    const kept = place === level.chosen;
    const worst = judged >= 0 && verdict && verdict.worst === judged && verdict.status === "ok";
    const notes = [judged >= 0 ? `${judged + 1}` : "not judged", `×${times}`];
    if (kept) notes.push(level.abandoned ? "kept, then rolled back" : "✓ kept");
    if (worst) notes.push("✗ worst");
    if (ends) notes.push("ends");
    if (judged >= 0 && verdict && verdict.scores.length && verdict.scores[judged] !== null) notes.push(`score ${verdict.scores[judged]}`);
    if (logprob !== null) notes.push(`log-prob ${signed(logprob)}` + (tokens ? ` (${signed(logprob / tokens)} a token)` : ""));
    notes.push(...flaws);
    return element("div", kept ? "step kept" : worst ? "step worst" : "step", modelText(text), element("small", "", notes.join(" · ")));
  }

  // The votes on each pair of steps, both orders side by side.
  function drawVotes(level) {
    const pairs = new Map();
    for (const vote of level.verdict.votes) {
      const key = `${Math.min(vote[0], vote[1])}-${Math.max(vote[0], vote[1])}`;
      pairs.set(key, [...(pairs.get(key) ?? []), vote]);
    }
    const rows = [...pairs.values()].map((votes) => ({ votes, disagree: disagrees(votes) }));
    rows.sort((a, b) => Number(b.disagree) - Number(a.disagree));
    const disagreeing = rows.filter((row) => row.disagree).length;
    const summary = element("summary", "", `${count(level.verdict.votes.length, "comparison")}`,
      disagreeing ? element("span", "badge bad", ` ${count(disagreeing, "pair")} disagree${disagreeing === 1 ? "s" : ""}`) : "");
    const box = element("details", "votes", summary);
    // Drawn when it is opened: a tree may hold hundreds of replies.
    box.addEventListener("toggle", () => { if (box.open && box.children.length === 1) box.append(...rows.map(drawPair)); });
    return box;
  }

  function winner(vote) {
    return vote[2] === 0 ? vote[0] : vote[2] === 1 ? vote[1] : vote[2] === 2 ? "tie" : "none";
  }

  function disagrees(votes) {
    const winners = votes.map(winner).filter((choice) => choice !== "none");
    return winners.length > 1 && new Set(winners).size > 1;
  }

  function drawPair({ votes, disagree }) {
    const columns = votes.map((vote) => {
      const choice = winner(vote);
      const says = typeof choice === "number" ? `for ${choice + 1}` : OUTCOMES[vote[2]];
      return element("div", "", element("h4", "", `${vote[0] + 1} first, ${vote[1] + 1} second: ${says}`),
        texts[vote[3]] ? modelText(vote[3]) : element("small", "", "no words"));
    });
    return element("div", "vote", disagree ? element("span", "badge bad", "positions disagree") : null, element("div", "pair", ...columns));
  }

  files.forEach((file, number) => {
    const size = trees.filter((tree) => tree.file === number).length;
    if (size) fileChoice.append(new Option(`${placeOf({ file: number })} (${size})`, String(number)));
  });
  for (const button of buttons) {
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
      refresh();
    });
  }
  let timer = 0;
  search.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(refresh, 150); });
  fileChoice.addEventListener("change", refresh);
  order.addEventListener("change", refresh);
  document.getElementById("tree-form").addEventListener("submit", (event) => event.preventDefault());
  refresh();
  if (matches.length) open([matches[0]], null);
})();
