# The workflow's two commands, `make repro` and `make test`, set up all they need in .venv.

PYTHON ?= python3.11
VENV ?= .venv
FER2013 ?= data/raw/fer2013.tar.gz
BIN := $(VENV)/bin
READY := $(VENV)/.ready

export PATH := $(abspath $(BIN)):$(PATH)
export RAY_USAGE_STATS_ENABLED := 0
export DVC_NO_ANALYTICS := 1
# DVC asks for the user's name; a container may have none.
export LOGNAME ?= $(shell id -un 2>/dev/null || id -u)

.DEFAULT_GOAL := help
.PHONY: help setup scm repro runs sweep lint test test-fast bench faults soak docs demo weights baseline clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## create the virtual environment with everything pinned in requirements.lock

# torch first and by its exact name, since its dependencies differ between CPU and CUDA builds; the rest as locked.
# A terminal sees how far pip is.
$(READY): requirements.lock
	$(PYTHON) -m venv $(VENV)
	[ -t 1 ] || quiet=--quiet; $(BIN)/python -m pip install $$quiet "$$(grep '^torch==' requirements.lock)"
	[ -t 1 ] || quiet=--quiet; $(BIN)/python -m pip install $$quiet --no-deps -r requirements.lock
	touch $@

# A ZIP of the repository has no .git, which DVC asks for unless it is told to do without.
scm: $(READY)
	@test -e .git || { echo "no .git here: DVC works without; after git init: dvc config --local --unset core.no_scm"; \
	for folder in . sweeps; do dvc --cd $$folder config --local core.no_scm true; done; }

repro: scm ## run the whole workflow on the profile of params.yaml; the page is report/index.html
	dvc repro
	@echo "report: report/index.html"

runs: scm ## a table of the workspace and all experiments: what they reach, nothing else
	dvc exp show --no-pager --drop '.*' --keep 'Experiment|Created|.*accuracy|.*macro_f1|training_faces'

# The report shows the sweeps that have run. By itself DVC would first run all that have not.
sweep: scm ## run one sweep of sweeps/params.yaml: make sweep NAME=beta; NAME=report shows those that ran on a page
	dvc repro $(if $(filter report,$(NAME)),,inputs)
	dvc --cd sweeps repro $(if $(filter models methods cost,$(NAME)),$(NAME),$(if $(filter report,$(NAME)),--single-item report,sweep@$(NAME)))

lint: $(READY) ## ruff and mypy
	ruff check .
	ruff format --check .
	mypy

test: lint ## ruff, mypy and the whole test suite
	pytest -n 2 --dist worksteal --durations=15

test-fast: lint ## the same without tests that take long: Ray, whole workflows, browsers
	pytest -n 2 --dist worksteal --durations=15 -m "not slow and not browser"

bench: $(READY) ## paired measurements of the training step
	python -m bench.step --methods bp nbp

faults: $(READY) ## every stage and a sweep under every fault, 25 minutes: docs/reliability.md
	python -m bench.faults --out docs/study/faults.json
	python -m pipeline.docs

soak: $(READY) ## 200 tiny epochs and 200 tiny trials, 10 minutes: docs/reliability.md
	python -m bench.soak --out docs/study/soak.json
	python -m pipeline.docs

docs: $(READY) ## write the tables and curves of README.md and docs/ from docs/study
	python -m pipeline.docs

demo: $(READY) ## the demo page as a folder in which the browser runs the network; npm fetches its runtime
	python -m pipeline.site demo

# Hours on a CPU. FER2013 is where README says; the seeds are those of the weights in the repository. BP is trained for
# the profile's 20 epochs, the other two by the longer recipe of docs/results.md.
REAL = dvc exp run -S profile=fer2013-cpu -S source=$(FER2013)
LONGER = $(addprefix -S profiles/fer2013-cpu.yaml:,train.epochs=60 ++train.augmentation.rotation=10 ++train.augmentation.scale=0.1)
weights: $(READY) ## train on FER2013 and put the networks into cfpn/weights
	@git diff --quiet HEAD -- params.yaml methods.yaml profiles || { echo "params.yaml, methods.yaml or profiles/ changed: commit or restore them"; exit 2; }
	$(REAL) -S 'run.methods=[bp]' -S 'run.seeds=[3]'
	python -m pipeline.weights bp runs/bp-3 results/evaluate/bp-3
	$(REAL) $(LONGER) -S 'run.methods=[nbp,deep_supervision]' -S 'run.seeds=[0]'
	python -m pipeline.weights nbp runs/nbp-0 results/evaluate/nbp-0
	python -m pipeline.weights deep_supervision runs/deep_supervision-0 \
	  results/evaluate/deep_supervision-0
	git restore params.yaml profiles
	python -m bench.card
	python -m pipeline.docs

# dvc.lock and the small results, so that a fresh clone has something to compare with. From an empty lock: an old one
# would keep stages of other methods and seeds. Trainings come from DVC's cache where it has them.
baseline: $(READY) ## run the default profile and stage what belongs into git
	@test -z "$$(git status --porcelain -- . ':!dvc.lock' ':!results')" || \
	{ echo "commit or restore your changes first: a baseline is of a commit"; exit 1; }
	rm -f dvc.lock
	dvc repro
	dvc status --quiet
	git add dvc.lock results/metrics.json results/plots
	pytest tests/test_dvc.py -k committed
	git status --short

clean: ## remove what a run leaves behind, not the DVC cache
	rm -rf .checkpoints .former .live ray wandb runs results/bench.json results/compare results/evaluate report dvc_plots
	rm -rf data/splits data/augmented.parquet data/sample.csv data/inputs.json
