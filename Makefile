.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO ?= artifacts/demo
DATA ?= ../shared/data
RESULTS ?= artifacts/results
GATE ?= artifacts/gate
SEEDS ?= 5
PATIENTS = --patients $(DATA)/cinc2015/windows.npz,$(DATA)/mimic_perform_af/windows.npz
SPC2015 = --windows $(DATA)/spc2015_dev/windows.npz --unlabelled $(DATA)/spc2015_dev/unlabelled.npz $(PATIENTS)
BAMI1 = --windows $(DATA)/bami1/windows.npz --folds 5 --definitions tests/people/methods_bami1.yaml $(PATIENTS)
RHYTHM = $(addprefix --rhythm ,$(wildcard $(DATA)/mimic_perform_af/windows.npz))
# what the TinyTimeMixers of the study start from
export TTM_R2 ?= $(or $(wildcard $(DATA)/ttm_r2/ttm_r2_512_96.pt),ibm-granite/granite-timeseries-ttm-r2)
# processes of `make test`; each computes with one thread
WORKERS ?= 2

help: ## Show what each target does
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(STAMP) ## Create .venv with everything (tested versions in .ci/constraints.txt)

$(STAMP): pyproject.toml .ci/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c .ci/constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c .ci/constraints.txt -e '.[dev]'
	@touch $@

demo: setup ## The method on synthetic people, in under three minutes: pretrain on 2 channels, inflate to 5, 3 stages, report, score
	$(BIN)/butppg mock --output $(DEMO)/vitaldb_windows --layout vitaldb --samples 2000 --seed 0 --overwrite
	$(BIN)/butppg mock --output $(DEMO)/but_ppg --samples 1000 --seed 0 --overwrite
	$(BIN)/butppg mock --output $(DEMO)/recording --layout recording --samples 60 --seed 7 --overwrite
	$(BIN)/butppg pretrain --config pretrain.yaml --config small.yaml --trainer.max_epochs 20 \
		--data.root $(DEMO)/vitaldb_windows --output_dir $(DEMO)/foundation_model --overwrite
	$(BIN)/butppg fit --config finetune_full.yaml --config small.yaml --config quick.yaml \
		--data.root $(DEMO)/but_ppg --model.pretrained $(DEMO)/foundation_model/best_model.pt \
		--output_dir $(DEMO)/but_ppg_finetuned --overwrite
	$(BIN)/butppg evaluate --checkpoint $(DEMO)/but_ppg_finetuned/best_model.pt --data-dir $(DEMO)/but_ppg \
		--output-dir $(DEMO)/evaluation --overwrite
	$(BIN)/butppg score --checkpoint $(DEMO)/but_ppg_finetuned/best_model.pt --input $(DEMO)/recording/recording.csv \
		--output-dir $(DEMO)/scored --overwrite
	$(BIN)/butppg inspect $(DEMO)/but_ppg_finetuned
	@echo "Look at: $(DEMO)/evaluation/report.html (metrics on people that training never saw),"
	@echo "         $(DEMO)/scored/timeline.png and scores.csv (which 10-s windows of a recording to trust),"
	@echo "         $(DEMO)/but_ppg_finetuned/best_model.pt (the classifier; README.md says what to do with it)."
	@echo "These people are synthetic: the figures show that the method works, not how well it does on yours."

test: setup ## Run the fast tests (nine to thirteen minutes on 2 cores)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist loadfile

test-all: setup ## Run all tests, the slow ones too
	$(BIN)/python -m pytest --timeout=1800

bench: setup ## Measure what training and scoring cost, as one table (over an hour on 2 idle cores)
	$(BIN)/python tests/benchmarks/costs.py --output artifacts/bench

compare: setup ## Compare staged unfreezing with Lightning's and finetuning-scheduler's: who resumes and synchronises exactly
	$(BIN)/python tests/benchmarks/compare_staging.py

results: setup ## Hold people out of DATA/spc2015_dev and DATA/bami1 (or BUT_PPG=DIR), against baselines; hours on 2 cores, resumable
	$(BIN)/python tests/people --pretraining $(DATA)/bidmc --seeds $(SEEDS) $(if $(BUT_PPG),\
		--but_ppg $(BUT_PPG) --output $(RESULTS)_but_ppg,$(SPC2015) --release $(DATA)/but_ppg_release_sample $(RHYTHM) --output $(RESULTS))
	$(if $(BUT_PPG),,$(BIN)/python tests/people --pretraining $(DATA)/bidmc --seeds 3 $(BAMI1) $(RHYTHM) --output $(RESULTS)_bami1)
	$(if $(BUT_PPG),,$(BIN)/python tests/gate --data $(DATA) --work $(RESULTS)_gate --output butppg_lightning/gate --about .ci/gate.yaml --judge_only true)

ablation: setup ## What each part of the recommended recipe is worth, with 3 seeds; shares what `make results` has done
	$(BIN)/python tests/people --ablation tests/people/ablation.yaml --pretraining $(DATA)/bidmc --seeds 3 $(SPC2015) --output $(RESULTS)

gate: setup ## Make the gate that the package ships again from DATA/cinc2015 and DATA/bidmc, and judge it; a quarter of an hour, resumable
	OMP_NUM_THREADS=1 $(BIN)/python tests/gate --data $(DATA) --work $(GATE) --output butppg_lightning/gate --about .ci/gate.yaml

docs: setup ## Build the API reference from the docstrings into artifacts/docs; a warning is an error
	$(BIN)/python .ci/docs.py --output artifacts/docs

lint: docs ## Check style (ruff) and types (mypy --strict), and build the API reference
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean: ## Remove caches, builds and the demo's results (not .venv, not your data)
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info $(DEMO)
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

.PHONY: help setup demo test test-all bench compare results ablation gate docs lint clean
