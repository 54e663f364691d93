#!/usr/bin/env bash
# Bring what pages need in a browser from the npm registry and the anywidget wheel; nothing here runs it.
#   vendor.sh FOLDER
set -euo pipefail
dst=$(mkdir -p "$1" && cd "$1" && pwd)
py=${PYTHON:-python}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

take() {  # name@version, folder, start of the file's name
  (cd "$tmp" && npm pack --silent "$1" >/dev/null && mkdir "$2" && tar xzf "$3"-*.tgz -C "$2" --strip-components=1)
}

take mathjax@3.2.2 mathjax mathjax
take reveal.js@4.6.1 reveal reveal.js
take requirejs@2.3.8 requirejs requirejs
take @jupyter-widgets/html-manager@1.0.15 manager jupyter-widgets-html-manager
manager=$dst/npm/@jupyter-widgets/html-manager/dist
mkdir -p "$dst/mathjax" "$dst/reveal/theme" "$dst/widgets" "$manager"
cp "$tmp/mathjax/es5/tex-svg-full.js" "$tmp/mathjax/LICENSE" "$dst/mathjax/"
cp "$tmp/reveal/dist/reveal.js" "$tmp/reveal/dist/reveal.css" "$tmp/reveal/LICENSE" "$dst/reveal/"
cp "$tmp/requirejs/require.js" "$dst/widgets/"
cp "$tmp/manager/dist/embed-amd.js" "$tmp"/manager/dist/*.woff2 "$tmp"/manager/dist/*.woff "$tmp"/manager/dist/*.ttf "$manager/"
cp "$("$py" -c 'import anywidget, pathlib; print(pathlib.Path(anywidget.__file__).parent)')/nbextension/index.js" "$dst/widgets/anywidget.js"
touch "$dst/ready"
