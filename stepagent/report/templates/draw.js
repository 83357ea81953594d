"use strict";
// Draws lists of trees and trees. Every text is put in as text (textContent): nothing a model wrote becomes markup.
const page = { texts: [], files: [], filters: {} };
const OUTCOMES = ["first", "second", "tie", "unparsed", "error"];
const BAD = new Set(["wrong", "failed", "disagree", "no_signal"]);

function element(tag, className, ...content) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...content.filter((part) => part !== null && part !== undefined));
  return node;
}

function modelText(number, tag = "div") {
  const node = element(tag, "text", page.texts[number]);
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
  const file = page.files[tree.file];
  return file.model ? `${file.model}, ${file.place}` : file.place;
}

function badges(tree) {
  const nodes = tree.flags.map((flag) => element("span", BAD.has(flag) ? "badge bad" : "badge", page.filters[flag]));
  if (tree.right === true) nodes.unshift(element("span", "badge good", "right answer"));
  return nodes;
}

function drawRow(tree, question, choose) {
  const button = element("button", "", question, element("small", "", `${placeOf(tree)} · ${tree.id}`),
    element("div", "", ...badges(tree)));
  button.type = "button";
  button.addEventListener("click", () => choose(button));
  return element("li", "", button);
}

function drawMore(list, left, add) {
  const button = element("button", "", count(left, "more tree"));
  button.type = "button";
  button.addEventListener("click", async () => {
    const place = list.children.length - 1;
    await add();
    list.children[place].firstChild.focus();
  });
  list.append(element("li", "more", button));
}

function mark(list, button) {
  for (const row of list.querySelectorAll("[aria-current]")) row.removeAttribute("aria-current");
  button.setAttribute("aria-current", "true");
}

// Shows trees beside each other; `twins` are the other trees of the problem: {key, file, pressed}.
function showTrees(view, chosen, twins, toggle) {
  const box = element("div", "", element("h3", "", chosen[0].id), modelText(chosen[0].question));
  if (twins.length) {
    const row = element("div", "others", "Beside it:");
    for (const twin of twins) {
      const button = element("button", "", placeOf(twin));
      button.type = "button";
      button.setAttribute("aria-pressed", String(twin.pressed));
      button.addEventListener("click", async () => {
        await toggle(twin.key);
        [...view.querySelectorAll(".others button")].find((other) => other.textContent === button.textContent)?.focus();
      });
      row.append(button);
    }
    box.append(row);
  }
  view.replaceChildren(box, element("div", "beside", ...chosen.map(drawTree)));
}

function drawTree(tree) {
  const [requests, prompt, sampled] = tree.usage;
  const facts = [tree.status.replaceAll("_", " "), count(tree.rollbacks, "roll-back"), count(requests, "request"),
    count(prompt, "prompt token"), count(sampled, "sampled token"), `${tree.seconds} s`];
  const box = element("article", "tree", element("h4", "", placeOf(tree)), element("div", "", ...badges(tree)),
    element("p", "quiet", facts.join(" · ")));
  if (tree.error !== null) box.append(element("p", "warning", tree.status === "failed" ? "failed: " : "without a vote: "), modelText(tree.error));
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
      page.texts[vote[3]] ? modelText(vote[3]) : element("small", "", "no words"));
  });
  return element("div", "vote", disagree ? element("span", "badge bad", "positions disagree") : null, element("div", "pair", ...columns));
}

// What a reader asks of the list of trees; `listen` calls `refresh` when it changes.
function controls() {
  const search = document.getElementById("tree-search");
  const fileChoice = document.getElementById("tree-file");
  const order = document.getElementById("tree-order");
  const buttons = [...document.querySelectorAll("[data-filter]")];
  const isPressed = (button) => button.getAttribute("aria-pressed") === "true";
  const pressed = () => buttons.filter(isPressed).map((button) => button.dataset.filter);
  function listen(refresh) {
    for (const button of buttons) {
      button.addEventListener("click", () => {
        button.setAttribute("aria-pressed", String(!isPressed(button)));
        refresh();
      });
    }
    let timer = 0;
    search.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(refresh, 150); });
    fileChoice.addEventListener("change", refresh);
    order.addEventListener("change", refresh);
    document.getElementById("tree-form").addEventListener("submit", (event) => event.preventDefault());
  }
  return { search, fileChoice, order, buttons, pressed, listen };
}
