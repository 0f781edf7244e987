// Columns of tables that sort: a button in each heading.
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const compare = (one, other) => {
        const a = key(one), b = key(other), difference = a - b;
        return Number.isNaN(difference) ? a.localeCompare(b) : difference;
      };
      const rows = [...body.rows].sort((one, other) => down ? compare(other, one) : compare(one, other));
      body.append(...rows);
    });
  });
}
