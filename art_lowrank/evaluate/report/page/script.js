"use strict";
const said = document.getElementById("said");

function value(row, column) {
  const cell = row.cells[column];
  const text = cell.dataset.v ?? cell.textContent.trim();
  return { number: text === "" ? NaN : Number(text), text }; // "" where there is no number
}

function sort(table, column, ascending) {
  const sign = ascending ? 1 : -1;
  const rows = [...table.tBodies[0].rows].map((row) => ({ row, key: value(row, column) }));
  const numbers = rows.every(({ key }) => key.text === "" || !Number.isNaN(key.number));
  rows.sort((a, b) => {
    if (!numbers) return sign * a.key.text.localeCompare(b.key.text, undefined, { numeric: true });
    if (Number.isNaN(a.key.number) || Number.isNaN(b.key.number)) return Number.isNaN(a.key.number) - Number.isNaN(b.key.number);
    return sign * (a.key.number - b.key.number);
  });
  table.tBodies[0].append(...rows.map(({ row }) => row));
}

for (const table of document.querySelectorAll("table.board")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (!("sort" in head.dataset)) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const before = head.getAttribute("aria-sort") ?? (head.dataset.sort ? "descending" : "ascending");
      const ascending = before === "descending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      sort(table, column, ascending);
      said.textContent = `sorted by ${button.textContent}, ${ascending ? "ascending" : "descending"}`;
    });
  });
  const section = table.closest("section");
  const tools = section.querySelector(".tools");
  const words = section.querySelector(".filter");
  const sound = section.querySelector(".sound");
  const filter = () => {
    const rows = [...table.tBodies[0].rows];
    for (const row of rows) {
      const found = row.textContent.toLowerCase().includes(words.value.trim().toLowerCase());
      row.hidden = !found || (sound.checked && row.classList.contains("doubted"));
    }
    said.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} models shown`;
  };
  words.addEventListener("input", filter);
  sound.addEventListener("change", filter);
  tools.hidden = false;
}

// for browsers that do not open by themselves what a link leads into
function reveal() {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  const part = target && target.closest("details");
  if (!part || part.open) return;
  part.open = true;
  target.scrollIntoView();
}
addEventListener("hashchange", reveal);
reveal();

let closed = [];
addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open])")];
  closed.forEach((part) => (part.open = true));
});
addEventListener("afterprint", () => closed.forEach((part) => (part.open = false)));
