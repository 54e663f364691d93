# Two commands: `make course` runs the chapters, `make test` runs everything that must hold.
PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/manifold-xai run

# Threads that wait for each other sleep instead of spinning: on a shared machine that is ten times faster.
export OMP_WAIT_POLICY ?= passive

.PHONY: course claims test chapters smoke lint device-quick tests torture offline device gpu site site-check bundle-check audit outputs evidence weights lock hooks bench clean browser ray

course: .venv/ready           ## every lesson at reading size, then the ledger: notebooks, figures, summary in _out/cpu
	$(RUN) --profile cpu --only lessons

claims: .venv/ready           ## the papers' claims at reading size, then the ledger again
	$(RUN) --profile cpu --only evidence,52

test: .venv/ready             ## what CI runs
	$(MAKE) -j 2 lint device-quick
	$(MAKE) tests chapters

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff check --select F821 manifold_xai
	$(BIN)/mypy

tests: .venv/ready            ## laws, oracles, bad input; the export in sync, the notebooks clean
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

# One core each: `make test` runs the two side by side.
device-quick: .venv/ready     ## most functions on a device that is the CPU under another name
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/device/test_device.py

# A page whose evidence holds has been run whole by this very code: nightly is soon enough for it.
# One job more than cores: while a kernel starts or writes, another computes.
chapters: .venv/ready         ## lessons, and pages whose evidence does not hold, small; their checks are their tests
	$(RUN) --profile smoke --jobs 3 --only lessons,stale

smoke: .venv/ready            ## every chapter once, small
	$(RUN) --profile smoke --jobs 3

torture: .venv/ready          ## a hundred toy courses killed, starved of disk, damaged, resumed
	$(BIN)/python tests/torture.py --rounds 100

offline: .venv/ready          ## every chapter at reading size where no network can be reached
	unshare --user --map-root-user --net $(BIN)/python tests/offline.py run --profile cpu --out _out/offline

device: .venv/ready           ## every function, and every chapter, small, on a device that is the CPU under another name
	$(BIN)/python -m pytest tests/device
	PYTHONPATH=$(CURDIR)/tests/device $(RUN) --profile smoke --device pretend --out _out/device

gpu: .venv/ready              ## ten minutes on a GPU: functions, chapters small, then at full size as time allows; kept in _out/gpu-day
	PYTHON=$(BIN)/python bash benchmarks/gpu.sh

ray: .venv/ready              ## the benchmark on a local Ray cluster, one worker killed; here Ray has to start
	RAY_MUST_START=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_benchmark.py -k ray

browser: .venv/ready          ## the workshop's widgets in JupyterLab and Notebook 7, under Debian's Chromium
	$(BIN)/python tests/browser.py
	$(BIN)/python tests/handout_browser.py

SITE := _out/site
site: .venv/ready $(SITE)/vendor/ready  ## the website, from committed notebooks: _out/site/html/index.html opens without a server
	$(BIN)/python website/stage.py $(SITE)/src
	cp -r $(SITE)/vendor $(SITE)/src/_static/vendor
	$(BIN)/python -m sphinx -b html -c website -j 2 -W --keep-going -q $(SITE)/src $(SITE)/html

$(SITE)/vendor/ready: website/vendor.sh
	PYTHON=$(BIN)/python website/vendor.sh $(SITE)/vendor

site-check: .venv/ready       ## every page of it in Chromium: no error, nothing from elsewhere, legible, fit for a phone
	$(BIN)/python website/check.py $(SITE)/html

bundle-check: .venv/ready     ## the bundle for a room without network, installed and run where there is none; takes gigabytes
	$(BIN)/manifold-xai bundle _out/bundle --chapters 00
	rm -rf _out/bundle-seat
	unshare --user --map-root-user --net sh _out/bundle/install.sh $(CURDIR)/_out/bundle-seat
	unshare --user --map-root-user --net _out/bundle-seat/bin/python tests/offline.py run --root _out/bundle/course --only 00 --profile smoke --out _out/bundle-run

audit:                        ## known vulnerabilities in the pinned packages; what cannot be looked up counts as a failure
	$(PYTHON) -m pip install --quiet pip-audit
	$(PYTHON) -m pip_audit --strict --disable-pip --require-hashes -r requirements/lock.txt

.venv/ready: settings.ini setup.py pyproject.toml requirements/constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --progress-bar off -c requirements/constraints.txt -e '.[course,natural,zarr,cluster,dev,site]'
	touch $@

outputs: .venv/ready          ## run cpu and smoke, write outputs and measured seconds back into nbs/
	$(RUN) --profile smoke
	$(RUN) --profile cpu
	$(BIN)/manifold-xai outputs
	mkdir -p nbs/images && cp _out/cpu/figures/00_tour/04.png nbs/images/tour.png
	cp _out/cpu/ledger.json nbs/results/ledger.json && $(BIN)/manifold-xai ledger
	$(BIN)/nbdev-clean
	$(BIN)/manifold-xai table --write
	$(BIN)/manifold-xai colab --write

evidence: .venv/ready         ## the pages whose evidence does not hold, on more images and seeds, resumable; all of them take hours
	$(RUN) --profile evidence --only stale --resume
	$(BIN)/manifold-xai evidence
	$(BIN)/manifold-xai ledger

weights: .venv/ready          ## remake the trained weights that ship with the package
	$(BIN)/python -c "from manifold_xai.subjects import classifiers as c, autoencoders as a; a.make_weights('manifold_xai/assets/weights'); c.make_weights('manifold_xai/assets/weights')"

bench: .venv/ready            ## the ratios that the README quotes
	for name in tangent_bases geodesics integrated_gradients guided manifold passes faithfulness; do $(BIN)/python benchmarks/$$name.py; done

lock: .venv/ready             ## pin what CI tests, with hashes for teachers
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile setup.py --all-extras --universal --python-version 3.11 --no-header --no-annotate -o requirements/constraints.txt
	$(BIN)/uv pip compile setup.py --all-extras --universal --python-version 3.11 --no-header --no-annotate --generate-hashes -c requirements/constraints.txt -o requirements/lock.txt

hooks: .venv/ready            ## clean notebooks at every commit
	git config core.hooksPath .githooks

clean:
	rm -rf .venv _out build dist *.egg-info
