// Who gets a key while the focus is inside `box`: plain ones are the widget's, Escape and those with a modifier
// the notebook's. Notebook 7 listens at the document, ahead of everything inside it; the window comes before both.
// It begins its search for a command at the element that has the focus, so this one carries the mark.
function own(box) {
  const heard = (event) => {
    const theirs = event.ctrlKey || event.metaKey || event.altKey
      || (event.shiftKey && event.key === "Enter") || event.key === "Escape";
    event.target.toggleAttribute("data-lm-suppress-shortcuts", !theirs);
  };
  box.addEventListener("focusin", () => window.addEventListener("keydown", heard, true));
  box.addEventListener("focusout", () => window.removeEventListener("keydown", heard, true));
}
