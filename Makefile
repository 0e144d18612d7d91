# make demo   draws 1,000 faces, makes them a dataset, trains, scores and exports a model, and has it predict
# make test   ruff, then every test that takes seconds, in two processes
# The first of them makes .venv with the versions of requirements.lock; PYTHON=… chooses the interpreter.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-slow test-flink test-spark test-prism bench lock clean

BIN := .venv/bin
INSTALLED := .venv/.installed
DEMO := demo/data/affect_faces/demo/1.0.0

# 3.11 first: the versions were measured on it. A name may exist and not run (pyenv's shims).
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
	&& command -v $$python && break; done)

help:
	@sed -n 's/^# make/make/p' Makefile
	@echo "make test-slow, test-flink, test-spark, test-prism, bench, lock, clean, .venv"

.venv: $(INSTALLED)

$(INSTALLED): requirements.lock setup.py
	@test -n "$(PYTHON)" || { echo "No Python 3.11, 3.12 or 3.13 with venv on the PATH; install one, or name it: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@test -x $(BIN)/python || { echo "Making .venv with $(PYTHON)"; $(PYTHON) -m venv .venv; }
	@echo "Installing the locked versions into .venv; this takes a few minutes, once"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

demo: $(INSTALLED)
	rm -rf demo
	$(BIN)/python -m datasets.sample_faces --output_dir=demo/faces --count=1000
	$(BIN)/python -m pipeline.build_tfrecords --source=affectnet --input_dir=demo/faces --data_dir=demo/data --name=demo
	$(BIN)/python -m pipeline.verify --dataset_dir=$(DEMO)
	$(BIN)/python -m pipeline.report --dataset_dir=$(DEMO) --output=demo/dataset.html
	$(BIN)/python scripts/read_back.py $(DEMO)
	$(BIN)/python -m trainers.train --recipe=quick --data_dir=demo/data --name=demo --workdir=demo/model
	$(BIN)/python -m trainers.evaluate --workdir=demo/model --split=test
	$(BIN)/python -m export.export_model --workdir=demo/model
	$(BIN)/python -m export.predict --model=demo/model/export --images=demo/faces/images --output=demo/predictions.csv --contact_sheet=demo/predictions.png
	@echo
	@echo "Open"
	@echo "  demo/dataset.html            what is in the dataset $(DEMO)"
	@echo "  demo/model/eval/report.html  how well the model does on faces that it never saw"
	@echo "  demo/model/export/1          the SavedModel, and model_card.md in it"
	@echo "  demo/predictions.png         what the SavedModel says of the faces; the table is demo/predictions.csv"

test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest --quiet --durations=10 --numprocesses=2 --dist=loadfile

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest --quiet --durations=10 -m slow

# The same faces on this machine and on an engine; the two digests must be equal. COUNT=4000 faces.
test-flink test-spark test-prism: $(INSTALLED)
	scripts/test_engine.sh $(@:test-%=%)

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks.conversion
	$(BIN)/python -m benchmarks.input_pipeline

lock: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile setup.py --extra dev --extra litert --extra onnx --universal --python-version 3.11 --upgrade -o requirements.lock

clean:
	rm -rf .venv .cache demo build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
