// Tables are sorted by the buttons in their heads; cells without a value stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const value = (row, column) => row.cells[column].dataset.sort ?? row.cells[column].textContent;
  const compare = (a, b) => (isNaN(a) || isNaN(b) ? a.localeCompare(b, undefined, { numeric: true }) : a - b);
  heads.forEach((head, column) => {
    head.querySelector("button")?.addEventListener("click", () => {
      const first = head.classList.contains("number") ? "descending" : "ascending";
      const other = first === "ascending" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      heads.forEach((cell) => cell.hasAttribute("aria-sort") && cell.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", order);
      const rows = [...body.rows];
      const known = rows.filter((row) => value(row, column) !== "");
      known.sort((a, b) => (order === "ascending" ? 1 : -1) * compare(value(a, column), value(b, column)));
      body.append(...known, ...rows.filter((row) => value(row, column) === ""));
    });
  });
}
