// Gives the keys to the panel in which it lies, once it lies there.
function render({ el }) {
  const panel = el.closest(".widget-vbox");
  if (panel) own(panel);
  else requestAnimationFrame(() => render({ el }));
}
export default { render };
