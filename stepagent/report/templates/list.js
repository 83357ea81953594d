
// The list of the trees that lie in the page.
(() => {
  const source = document.getElementById("tree-data");
  const list = document.getElementById("tree-list");
  if (!source || !list) return;
  const { texts, trees, files, filters } = JSON.parse(source.textContent);
  Object.assign(page, { texts, files, filters });
  const view = document.getElementById("tree-view");
  const status = document.getElementById("tree-status");
  const { search, fileChoice, order, buttons, pressed, listen } = controls();
  const PAGE = 60; // rows that are added to the list at a time
  let matches = [];
  let drawn = 0;

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
    const flags = pressed();
    const query = search.value.trim().toLowerCase();
    matches = trees.filter((tree) =>
      (fileChoice.value === "" || tree.file === Number(fileChoice.value)) &&
      flags.every((flag) => tree.flags.includes(flag)) &&
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
      list.append(drawRow(tree, modelText(tree.question, "span"), (button) => {
        mark(list, button);
        open([tree]);
        view.focus({ preventScroll: window.innerWidth > 768 });
      }));
    }
    drawn = Math.min(drawn + PAGE, matches.length);
    if (drawn < matches.length) drawMore(list, matches.length - drawn, more);
  }

  function open(chosen) {
    const [tree] = chosen;
    const twins = trees.filter((twin) => twin !== tree && twin.id === tree.id && twin.question === tree.question);
    const rows = twins.map((twin) => ({ key: twin, file: twin.file, pressed: chosen.includes(twin) }));
    showTrees(view, chosen, rows, (twin) =>
      open(chosen.includes(twin) ? chosen.filter((other) => other !== twin) : [...chosen, twin]));
  }

  files.forEach((file, number) => {
    const size = trees.filter((tree) => tree.file === number).length;
    if (size) fileChoice.append(new Option(`${placeOf({ file: number })} (${size})`, String(number)));
  });
  listen(refresh);
  refresh();
  if (matches.length) open([matches[0]]);
})();
