# make app    install if needed, then the dashboard on 127.0.0.1:7860
# make test   install if needed, then the tests
# make check  format, lint, types, tests

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# Runs and dashboards are processes of their own: compiled once, not at every start.
export PYTHONDONTWRITEBYTECODE :=
TESTS := -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: app test check format
.DEFAULT_GOAL := app

$(VENV)/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "charllm needs Python 3.11 or newer: make app PYTHON=python3.12"; \
	  echo "Python 3.11 以上が必要です: make app PYTHON=python3.12"; exit 2; }
	@$(PYTHON) -c 'import shutil, sys; sys.exit(shutil.disk_usage(".").free < 8e9)' || { \
	  echo "Less than 8 GB of disk is free: the installation needs about 6 GB. Free some space first."; \
	  echo "ディスクの空きが 8 GB 未満です。インストールには約 6 GB 必要です。"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

app: $(VENV)/installed
	$(PY) app.py

test: $(VENV)/installed-dev
	$(PY) $(TESTS)

check: $(VENV)/installed-dev
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) $(TESTS)

format: $(VENV)/installed-dev
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .
