// Filters of the ledger's page: a box to search in, a choice for each column of few words.
document.addEventListener("DOMContentLoaded", () => {
  const form = document.getElementById("ledger-filters");
  if (!form) return;
  const claims = [...document.querySelectorAll(".claim")];
  const slug = (word) => word.toLowerCase().replace(/[^\p{L}\p{N}_]+/gu, "-").replace(/^-|-$/g, "");
  const labelled = (name, field) => {
    const label = document.createElement("label");
    label.append(name, field);
    form.append(label);
    return field;
  };
  const text = labelled("words", Object.assign(document.createElement("input"), { type: "search" }));
  const choices = Object.entries(JSON.parse(form.dataset.choices)).map(([name, words]) => {
    const select = labelled(name, document.createElement("select"));
    select.append(new Option("all", ""), ...words.map((word) => new Option(word, slug(word))));
    return select;
  });
  const count = form.appendChild(document.createElement("output"));
  const show = () => {
    const wanted = text.value.toLowerCase();
    let shown = 0;
    for (const claim of claims) {
      const fits = choices.every((c) => !c.value || claim.classList.contains(`is-${c.value}`));
      claim.hidden = !(fits && claim.textContent.toLowerCase().includes(wanted));
      shown += !claim.hidden;
    }
    count.textContent = `${shown} of ${claims.length} claims`;
  };
  form.addEventListener("input", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  show();
});
