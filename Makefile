# Each target makes .venv and installs what is missing first; the second time that takes no time.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := $(CURDIR)/.venv/bin
export PATH := $(BIN):$(PATH)

.PHONY: help install demo paper app test readme book lab lock wheel clean

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

install: ## make .venv and install the locked dependencies
	@test -n "$(PYTHON)" || { echo 'Python 3.11 or newer, with venv, is needed (on Debian and Ubuntu: apt install python3-venv)' >&2; exit 2; }
	@$(PYTHON) tools/install.py

demo: install ## the whole pipeline in miniature: models, tables, figures, forecasts; resumes where it stopped
	@forehand4d demo

paper: install ## every method, all tables and figures: make paper PROFILE=cpu, or DATA=my-data.toml; resumes where it stopped
	@forehand4d paper --profile $(or $(PROFILE),cpu)$(if $(SEEDS), --seeds $(SEEDS))$(if $(DATA), --data $(DATA))

# Tests run these by papermill at the same size: test_speed.py the benchmarks, test_pipeline.py the rest.
TESTED := benchmark_geometry benchmark_samplers benchmark_speed evaluate_forecast evaluate_lifting \
	figure6_samples forecast_image impute_labels prepare_data reproduce table3_forecasting \
	train_forecast train_lifting

# Lessons of the notebooks first, then what no single notebook owns. The data they share is made once.
test: export OMP_NUM_THREADS = 1
test: install ## conventions, the lessons of all notebooks, oracles, the whole pipeline
	@unset FOREHAND4D_OUTPUTS; tmp=$$(mktemp -d) && trap 'rm -rf "$$tmp"' EXIT && export TMPDIR="$$tmp" FOREHAND4D_DATA="$$tmp/data" \
	&& pytest -q -p no:cacheprovider tests/test_conventions.py \
	&& python tools/execute.py --check --workers 2 --but $(TESTED) \
	&& pytest -q -n 2 --dist loadfile --no-loadscope-reorder tests --ignore tests/test_conventions.py

readme: install ## README.md from nbs/index.ipynb
	@python tools/readme.py

book: install ## the notebooks as a site with search and API: outputs/book/html/index.html
	@python tools/book.py

app: install ## a page in the browser: photographs and videos in, futures out
	@forehand4d app

lab: install ## JupyterLab; it opens the repository, so that pictures and links work
	@jupyter lab --notebook-dir . nbs/index.ipynb

lock: ## locks/ from the ranges of pyproject.toml; needs uv
	@$(PYTHON) tools/lock.py

wheel: install ## dist/: what `pip install` takes
	@python -m build

clean: ## remove .venv and caches; runs in outputs/ stay
	@rm -rf .venv build dist *.egg-info .pytest_cache _proc _docs
	@find forehand4d nbs tests tools -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf
