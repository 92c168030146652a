# Every target sets up the virtual environment first, once; `make` alone lists the targets.

PYTHON ?= python3
VENV   ?= .venv
# Index that torch is installed from: CPU builds are a tenth of the size of CUDA builds.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# Recipe that `make train` runs: a file in models/twinforce_models/training.
RECIPE ?= water

BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP   := $(BIN)/pip --disable-pip-version-check install --constraint constraints.txt
# Programs that look at the project from outside live apart, so as not to be part of it.
TOOLS := .venv-tools
MESSAGES := --python_out=proto --pyi_out=proto
STUBS := $(MESSAGES) --grpc_python_out=proto

.DEFAULT_GOAL := help
.PHONY: help demo test test-ase test-ecosystem test-models test-models-together test-page check format \
	proto lint-api audit sbom lock lock-torch release docs chart image image-here attacks chaos fuzz soak scaling bench paper paper-bundled \
	paper-published data-folder train train-pet train-soap clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(STAMP)  ## remote molecular dynamics of water with both kinds of forces: a table and a plot
	$(BIN)/python demo/water_md.py

# Number of processes that run the tests; auto means one per core, up to eight. The tests of a file
# stay in one process because they share services and models. To run them in random order:
#   make test ARGS="--random-order-bucket=module --random-order-seed=1"
WORKERS ?= auto

test: $(STAMP)  ## run the tests (ARGS="-k name", WORKERS=0 to run them in one process)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --maxprocesses 8 \
		--dist loadfile --no-loadscope-reorder $(ARGS)

# Families of models, each tested in an environment of its own, as some cannot share one. What the
# environment lacks, such as torch, it finds in $(VENV): it takes seconds and few megabytes.
FAMILIES ?= orb mace chgnet sevenn mattersim nequip ani fairchem aimnet2
FAMILY_VENVS := .venv-models
# SOAP-BPNN is no family: metatrain exports it for metatomic.
EXTRA_soap := metatomic
ALSO_soap := "metatrain[soap-bpnn]"
# Packages whose own requirements cannot all be met; the extra of the family lists those that count.
ALONE_mattersim := mattersim
SITE := import sysconfig; print(sysconfig.get_path("purelib"))
LINK := import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))

test-models: $(FAMILIES:%=test-models-%) test-models-together  ## compare families with their own calculators on published weights (FAMILIES="orb mace")

test-models-%: $(FAMILY_VENVS)/%/.installed
	OMP_NUM_THREADS=1 $(FAMILY_VENVS)/$*/bin/python -m pytest -m "models or not models" \
		tests/models/families/test_$*.py $(ARGS)

# One service, in the environment of MACE, that serves SevenNet from its own environment.
test-models-together: $(FAMILY_VENVS)/mace/.installed $(FAMILY_VENVS)/sevenn/.installed
	OMP_NUM_THREADS=1 TWINFORCE_ENVIRONMENT_FOLDER=$(FAMILY_VENVS) $(FAMILY_VENVS)/mace/bin/python \
		-m pytest -m "models or not models" tests/models/families/test_environments.py $(ARGS)

.PRECIOUS: $(FAMILY_VENVS)/%/.installed
$(FAMILY_VENVS)/%/.installed: PIP_IN = $(BIN)/pip --disable-pip-version-check --python $(@D)/bin/python \
	install --quiet --constraint constraints.txt --no-build-isolation
$(FAMILY_VENVS)/%/.installed: $(STAMP)
	@echo "Setting up $(@D)."
	@rm -rf $(@D)
	@$(BIN)/python -m venv --without-pip $(@D)
	@$(BIN)/python -c '$(LINK)' > $$($(@D)/bin/python -c '$(SITE)')/twinforce-base.pth
	@$(PIP_IN) --editable ".[$(or $(EXTRA_$*),$*)]" $(ALSO_$*)
	@$(if $(ALONE_$*),$(PIP_IN) --no-deps $(ALONE_$*))
	@touch $@

# With the tests that ASE installs; they take two minutes.
test-ase: $(STAMP)  ## run ASE's own tests that use EMT with our calculator in its place (ARGS="-k neb")
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.ecosystem.ase $(ARGS)

# Programs that use the service, each in an environment of its own that takes from $(VENV) what it can.
PROGRAMS ?= aiida ase atomate2 socket geometric grpc_requests ipi janus jobflow jupyter kserve lammps matcalc openmm \
	perf_analyzer phono3py phonopy quacc sella torch_sim tritonclient
# Packages of Debian whose libraries a program needs; they need not be installed and run nothing.
DEBIAN_perf_analyzer := libb64-0d
# It is a program; the package of Python beside it wants an old numpy.
PIP_OPTIONS_perf_analyzer := --no-deps
PROGRAM_VENVS := .venv-ecosystem
RESULTS := build/ecosystem

test-ecosystem: $(PROGRAMS:%=test-ecosystem-%)  ## run other programs with a service, and print the table of docs/ecosystem.md (PROGRAMS="sella ipi")
	PYTHONPATH=. $(BIN)/python -m tests.ecosystem.table $(RESULTS)

# The programs that bring libraries of their own, such as MPI, have them in lib.
test-ecosystem-%: $(PROGRAM_VENVS)/%/.installed
	@mkdir -p $(RESULTS)
	OMP_NUM_THREADS=1 LD_LIBRARY_PATH=$(abspath $(PROGRAM_VENVS))/$*/lib \
		TWINFORCE_ECOSYSTEM_RESULTS=$(RESULTS)/$*.json $(PROGRAM_VENVS)/$*/bin/python -m pytest \
		-m "ecosystem or not ecosystem" tests/ecosystem/test_$*.py $(ARGS)

.PRECIOUS: $(PROGRAM_VENVS)/%/.installed
$(PROGRAM_VENVS)/%/.installed: tests/ecosystem/requirements/%.txt $(STAMP)
	@echo "Setting up $(@D)."
	@rm -rf $(@D)
	@$(BIN)/python -m venv --without-pip $(@D)
	@$(BIN)/python -c '$(LINK)' > $$($(@D)/bin/python -c '$(SITE)')/twinforce-base.pth
	@$(BIN)/pip --disable-pip-version-check --python $(@D)/bin/python install --quiet \
		--constraint constraints.txt $(PIP_OPTIONS_$*) --requirement $<
	@$(if $(DEBIAN_$*),cd $(@D) && apt-get download --quiet $(DEBIAN_$*) && for each in *.deb; do \
		dpkg-deb --extract $$each debian; done && mv debian/usr/lib/*/*.so* lib/)
	@touch $@

test-page: $(STAMP)  ## test the page in a Chromium that is installed with its driver
	@$(PIP) --quiet --editable ".[browser]"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/service/transports/page \
		tests/service/clusters/test_templates.py $(ARGS)

check: $(STAMP)  ## check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP)  ## format, and fix what the linter can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

proto: $(STAMP)  ## generate the protobuf stubs next to their .proto
	$(BIN)/python -m grpc_tools.protoc -I proto $(STUBS) proto/twinforce_proto/v1/*.proto
	$(BIN)/python -m grpc_tools.protoc -I proto $(MESSAGES) proto/twinforce_proto/open_inference/*.proto

# Exit code 1: vulnerabilities are known. 3: nobody could be asked, so nothing is known.
audit: $(STAMP) $(TOOLS)/.installed  ## look up known vulnerabilities of what is installed and locked (ADVISORIES=checkout of pypa/advisory-database: without network)
	$(BIN)/python -m tests.supply.audit --pip-audit $(TOOLS)/bin/pip-audit \
		$(if $(ADVISORIES),--advisories "$(ADVISORIES)")

sbom: $(STAMP) $(TOOLS)/.installed  ## write bills of materials (CycloneDX) of the environment and of the images to build/
	@mkdir -p build
	$(TOOLS)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		--output-file build/environment.cdx.json $(BIN)/python
	set -e; for name in $(IMAGES); do \
		$(BIN)/python -m tests.supply.requirements $$name > build/$$name.txt; \
		$(TOOLS)/bin/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible \
			--output-file build/$$name.cdx.json build/$$name.txt; done

# Images by their extra.
IMAGES := server cuda

lock: $(STAMP) $(TOOLS)/.installed  ## pin what the images install, with hashes, in locks/ (ARGS=--upgrade: the newest versions)
	$(BIN)/python -m tests.supply.lock --uv $(TOOLS)/bin/uv $(ARGS)

lock-torch: $(STAMP) $(TOOLS)/.installed  ## pin PyTorch for the CPU, with hashes, from TORCH_INDEX
	$(BIN)/python -m tests.supply.lock --uv $(TOOLS)/bin/uv --torch-index "$(TORCH_INDEX)"

$(TOOLS)/.installed: pyproject.toml constraints.txt
	@echo "Setting up $(TOOLS)."
	@test -x $(TOOLS)/bin/python || $(PYTHON) -m venv $(TOOLS)
	@$(TOOLS)/bin/pip --disable-pip-version-check install --quiet --constraint constraints.txt ".[tools]"
	@touch $@

# Programs of others that look at the chart, in an environment of their own, as they pin many packages.
CHART := .venv-chart

release: $(STAMP) $(TOOLS)/.installed  ## build the wheel and the source distribution in dist/, and check them
	rm -rf dist
	$(TOOLS)/bin/python -m build --outdir dist
	$(TOOLS)/bin/twine check --strict dist/*

# Sphinx sees the packages of the main environment, which it documents and which the notebooks use.
DOCS := .venv-docs

docs: $(DOCS)/.installed  ## build the documentation site in build/docs/html; warnings are errors
	$(DOCS)/bin/python -m sphinx --fail-on-warning --keep-going --quiet -c docs/site docs build/docs/html
	@echo "The site is in build/docs/html/index.html."

$(DOCS)/.installed: $(STAMP) docs/site/requirements.txt
	@echo "Setting up $(DOCS)."
	@test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	@$(BIN)/python -c '$(LINK)' > $$($(DOCS)/bin/python -c '$(SITE)')/twinforce-base.pth
	@$(DOCS)/bin/pip --disable-pip-version-check install --quiet --requirement docs/site/requirements.txt
	@touch $@

chart: $(STAMP) $(CHART)/.installed  ## check the chart: lint, schemas of Kubernetes, checkov, alerts, a real release
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --maxprocesses 8 \
		--dist loadfile -m "chart or not chart" tests/chart $(ARGS)

# promtool and prometheus are taken from Debian's package, which need not be installed and runs nothing.
$(CHART)/.installed: tests/chart/requirements.txt
	@echo "Setting up $(CHART)."
	@test -x $(CHART)/bin/python || $(PYTHON) -m venv $(CHART)
	@$(CHART)/bin/pip --disable-pip-version-check install --quiet --requirement $<
	@command -v promtool > /dev/null && command -v prometheus > /dev/null || { \
		rm -rf $(CHART)/debian && mkdir $(CHART)/debian && cd $(CHART)/debian \
		&& { apt-get download prometheus || { apt-get update && apt-get download prometheus; }; } \
		&& dpkg-deb --extract prometheus_*.deb . && ln -sf ../debian/usr/bin/promtool ../debian/usr/bin/prometheus ../bin/; }
	@touch $@

# The program that builds images: docker, podman or buildah. EXTRA, FAMILIES, BASE and others are
# arguments of the Dockerfile: make image IMAGE_ARGS="--build-arg EXTRA=cuda --tag twinforce:cuda"
BUILDER ?= docker
IMAGE_ARGS ?= --tag twinforce:0.2.0

image:  ## build the image (BUILDER=docker, podman or buildah; IMAGE_ARGS="--build-arg EXTRA=cuda --tag ...")
	$(BUILDER) build --build-arg REVISION=$$(git rev-parse HEAD) $(IMAGE_ARGS) .

# Needs root, buildah and debootstrap. The base is the Python of PREFIX on Debian.
STAND_IN ?= build/stand-in
PREFIX ?= $(shell $(PYTHON) -c 'import sys; print(sys.base_prefix)')

image-here: $(STAMP)  ## build the image without a container registry, run it read-only, and use it
	mkdir -p $(dir $(STAND_IN))
	tests/image/stand_in.sh localhost/twinforce-base "$(STAND_IN)" "$(PREFIX)"
	PYTHONPATH=. $(BIN)/python -m tests.image --build-arg BASE=localhost/twinforce-base $(ARGS)

attacks: $(STAMP)  ## attack a service with large, slow and endless messages, and measure what that does (ARGS="slow endless")
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.attacks $(ARGS)

fuzz: $(STAMP) $(TOOLS)/.installed  ## send 100,000 malformed messages, and what the OpenAPI description allows (ARGS="--messages 1000 --seed 1")
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --schemathesis $(TOOLS)/bin/schemathesis $(ARGS)

# Minutes of load.
MINUTES ?= 30

# Programs of npm beside those of $(TOOLS); their names are those of the packages and of the commands.
NPM := $(TOOLS)/npm

lint-api: $(STAMP) $(TOOLS)/.installed $(NPM)/.installed  ## look for flaws of the APIs with buf, redocly and spectral, and for changes since the last release
	PATH="$(CURDIR)/$(TOOLS)/bin:$(CURDIR)/$(NPM)/node_modules/.bin:$$PATH" OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest tests/proto/test_compatible.py tests/service/transports/test_openapi.py $(ARGS)

$(NPM)/.installed: | $(TOOLS)/.installed
	npm install --silent --no-audit --no-fund --prefix $(NPM) @redocly/cli @stoplight/spectral-cli
	@touch $@

soak: $(STAMP)  ## keep a service under mixed load for MINUTES, judge whether it stays flat, and write docs/soak.md
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.soak --minutes $(MINUTES) $(ARGS)

# `make chaos CHAOS=--short` tries the faults that take least time, in about three minutes.
chaos: $(STAMP)  ## do what can go wrong to a real service, count what its clients notice, and write docs/chaos.md
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.chaos $(CHAOS)

scaling: $(STAMP)  ## simulate fleets of replicas and write docs/scaling.md (ARGS="--only zone_loss")
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.studies.scaling $(ARGS)

bench: $(STAMP)  ## measure the figures of docs/performance.md and write the page (ARGS="--only step crowd")
	$(BIN)/python -m bench $(ARGS)

# Wall time in minutes; the study continues where it stopped.
PAPER_MINUTES ?= 60

# Models that are studied: the bundled one, or published ones (PAGE=published).
PAGE ?= bundled

paper: paper-$(PAGE)  ## run the study of the bundled model for PAPER_MINUTES more and write docs/paper.md (PAGE=published: of published models, docs/published.md)

paper-bundled: $(STAMP)
	$(BIN)/python -m bench.paper --minutes $(PAPER_MINUTES) $(ARGS)

paper-published: $(STAMP) $(FAMILY_VENVS)/orb/.installed $(FAMILY_VENVS)/mace/.installed $(FAMILY_VENVS)/sevenn/.installed
	$(BIN)/python -m bench.paper.published --minutes $(PAPER_MINUTES) \
		--environment-folder $(FAMILY_VENVS) $(ARGS)

# Refused before anything is installed.
data-folder:
	@test -d "$(DATA)" || { echo "make $(MAKECMDGOALS): DATA: expected the folder of the training data, got '$(DATA)'" >&2; exit 2; }

train: data-folder $(STAMP)  ## train a bundled model: make train DATA=folder-of-its-data [RECIPE=water|elements6]
	$(BIN)/twinforce-train models/twinforce_models/training/$(RECIPE).toml --data "$(DATA)" --out runs/$(RECIPE) $(ARGS)

train-pet: data-folder $(STAMP)  ## train a hybrid PET with metatrain: make train-pet DATA=folder-of-the-water-data
	$(BIN)/python -m twinforce_models.training.pet.main --data "$(DATA)" --out runs/pet $(ARGS)

train-soap: data-folder  ## train SOAP-BPNN with metatrain for docs/published.md: make train-soap DATA=folder-of-the-water-data
	@$(MAKE) --no-print-directory $(FAMILY_VENVS)/soap/.installed
	$(FAMILY_VENVS)/soap/bin/python -m bench.paper.published.soap --data "$(DATA)" $(ARGS)

clean:  ## remove the virtual environment and everything built
	rm -rf $(VENV) $(FAMILY_VENVS) $(PROGRAM_VENVS) $(TOOLS) $(DOCS) $(CHART) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(STAMP): pyproject.toml constraints.txt
	@echo "Setting up $(VENV), which takes some minutes the first time and none later."
	@test -x $(BIN)/python || { echo "Creating the virtual environment ..."; \
		$(PYTHON) -m venv $(VENV); }
	@$(PIP) --quiet pip
	@echo "Installing PyTorch (CPU build, about 200 MB) ..."
	@$(PIP) --no-deps --retries 1 --extra-index-url $(TORCH_INDEX) torch
	@echo "Installing TwinForce and its other dependencies (about 100 packages) ..."
	@$(PIP) --quiet --editable ".[dev]"
	@touch $@
