// Serve every widget front end from this site; nothing comes from elsewhere.
(function () {
  const vendor = document.currentScript.src.replace(/[^/]*$/, "") + "vendor/";
  requirejs.config({ paths: { anywidget: vendor + "widgets/anywidget" } });
  const manager = document.createElement("script");
  manager.src = vendor + "npm/@jupyter-widgets/html-manager/dist/embed-amd.js";
  manager.dataset.jupyterWidgetsCdn = vendor + "npm/";
  manager.async = false;
  document.head.appendChild(manager);
})();
