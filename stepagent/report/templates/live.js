
// The list of all trees of a run that goes on, asked from the process that shows it.
(() => {
  const list = document.getElementById("tree-list");
  const view = document.getElementById("tree-view");
  const status = document.getElementById("tree-status");
  const { search, fileChoice, order, buttons, pressed, listen } = controls();
  const PAGE = 60; // rows that are asked for at a time
  const PAUSE = 3000; // milliseconds between two looks at the run
  let drawn = 0;
  let chosen = false; // whether a reader has chosen a tree
  let asked = 0; // only the newest question's reply is drawn

  async function ask(path, parameters) {
    const reply = await fetch(`${path}?${parameters}`);
    if (!reply.ok) throw new Error(`${path}: ${reply.status}`);
    return reply.json();
  }

  function question(first, size) {
    const parameters = new URLSearchParams({ q: search.value.trim(), file: fileChoice.value, order: order.value, first, size });
    for (const flag of pressed()) parameters.append("filter", flag);
    return parameters;
  }

  function tell(reply) {
    Object.assign(page, { files: reply.files, filters: reply.filters });
    status.textContent = `${count(reply.matches, "tree")} of ${reply.all.toLocaleString("en")} so far`;
    for (const button of buttons) button.querySelector("small").textContent = reply.counts[button.dataset.filter].toLocaleString("en");
    reply.files.forEach((file, number) => {
      const words = `${placeOf({ file: number })} (${file.trees})`;
      if (fileChoice.options.length <= number + 1) fileChoice.append(new Option(words, String(number)));
      else fileChoice.options[number + 1].textContent = words;
    });
  }

  async function refresh() {
    drawn = 0;
    list.replaceChildren();
    await more();
  }

  async function more() {
    const number = (asked += 1);
    const reply = await ask("list", question(drawn, PAGE));
    if (number !== asked) return;
    list.querySelector(".more")?.remove();
    tell(reply);
    for (const tree of reply.trees) {
      const words = element("span", "text", tree.question);
      words.dir = "auto";
      list.append(drawRow(tree, words, async (button) => {
        const follows = chosen; // the first tree is opened by the page itself, which must not scroll to it
        mark(list, button);
        await open([tree.number]);
        if (follows) view.focus({ preventScroll: window.innerWidth > 768 });
      }));
    }
    drawn += reply.trees.length;
    if (drawn < reply.matches) drawMore(list, reply.matches - drawn, more);
  }

  async function open(numbers) {
    const reply = await ask("trees", new URLSearchParams(numbers.map((number) => ["number", number])));
    page.texts = reply.texts;
    const twins = reply.twins.map((twin) => ({ key: twin.number, file: twin.file, pressed: numbers.includes(twin.number) }));
    showTrees(view, reply.trees, twins, (key) =>
      open(numbers.includes(key) ? numbers.filter((other) => other !== key) : [...numbers, key]));
  }

  async function follow() {
    try {
      tell(await ask("list", question(0, 0)));
    } catch {
      status.textContent = "stepagent view has ended; start it again and open its new address";
      return;
    }
    setTimeout(follow, PAUSE);
  }

  listen(refresh);
  refresh().then(() => {
    list.querySelector("button")?.click();
    chosen = true;
  });
  setTimeout(follow, PAUSE);
})();
