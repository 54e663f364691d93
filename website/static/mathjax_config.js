window.MathJax = {
  tex: { tags: "none" },
  options: { processHtmlClass: "tex2jax_process|mathjax_process|math|output_area" },
  startup: {
    ready() {
      MathJax.startup.defaultReady();
      MathJax.startup.promise.then(() => (MathJax.done = true));
      // jupyter-widgets still talks to the MathJax 2 queue when it sets a label
      MathJax.Hub = { Queue: (job) => MathJax.typesetPromise([job[2]]) };
    },
  },
};
