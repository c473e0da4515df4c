const box = document.getElementById("search");
const told = document.getElementById("status");
const plain = (text) => text.toLowerCase().normalize("NFD").replace(/[\u0300-\u036f]/g, "");
const rows = [...document.querySelectorAll("tbody tr")].map((row) => [row, plain(row.dataset.words)]);
function search() {
  const words = plain(box.value).split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const [row, text] of rows) {
    row.hidden = !words.every((word) => text.includes(word));
    shown += !row.hidden;
  }
  for (const group of document.querySelectorAll("section")) {
    group.hidden = !group.querySelector("tbody tr:not([hidden])");
  }
  told.textContent = words.length ? `${shown} of ${rows.length} concepts` : `${rows.length} concepts`;
}
box.addEventListener("input", search);
search();
