# `make help` lists what there is. Everything runs in .venv, made on first use.
PYTHON ?= python3
SHELL := /bin/bash
export PATH := $(CURDIR)/.venv/bin:$(PATH)
.DEFAULT_GOAL := help
.PHONY: help repro test check parameters report bench growth ablations comparison successors choosing truncation recipe prune push pull publish

help:  ## this list
	@sed -nE 's/^([a-z]+):.*## *(.*)/\1\t\2/p' Makefile | column -t -s $$'\t'

repro: .venv/runtime  ## run the pipeline on params.yaml, as `dvc repro`
	dvc repro

test: .venv/development  ## lint and every test
	ruff check . && ruff format --check . && pytest -n 3 --dist loadfile --no-loadscope-reorder

check: .venv/runtime  ## check params.yaml
	python -m stages.check

report: .venv/runtime  ## make report.html, one page of the run with everything in it
	python -m report

bench: .venv/runtime  ## measure time and memory beside the plain way, or NAME="unroll buffers" alone
	python -m benchmarks $(NAME)

growth: .venv/development  ## measure how the cost of an iteration grows
	python -m benchmarks.growth

ablations: .venv/runtime  ## run what docs/ablations.md lacks, or NAME="range start" alone
	python -m studies.ablations $(NAME) $(if $(NAME),,&& python -m studies.probes)

comparison: .venv/runtime  ## run what the comparison of methods in RESULTS.md lacks
	python -m studies.comparison $(NAME) $(if $(NAME),,&& python -m studies.coverage)

successors: .venv/runtime  ## run what docs/successors.md lacks, or NAME="digits, 1" alone
	python -m studies.successors $(if $(NAME),"$(NAME)")

choosing: .venv/development  ## run what docs/choosing.md lacks, or NAME="good" alone
	python -m studies.choosing $(if $(NAME),"$(NAME)")

truncation: .venv/development  ## measure how wrong the truncated gradient is, for docs/successors.md
	python -m studies.truncation

parameters: .venv/runtime  ## write docs/parameters.md anew
	python -m docs

recipe: .venv/runtime  ## make params.yaml from recipes/NAME.yaml and show what changed
	python -m recipes $(NAME) && git --no-pager diff --stat -p -- params.yaml

prune: .venv/runtime  ## remove what .work keeps and no lock file of any branch needs, or with DRY=1 list it
	python -m mtt.prune $(if $(DRY),--dry)

push: .venv/runtime  ## send what dvc.lock names to your remote or REMOTE=name, and look that all is there
	python -m remotes push $(REMOTE)

pull: .venv/runtime  ## bring it from there, and name what did not come whole
	python -m remotes pull $(REMOTE)

publish: .venv/runtime  ## for maintainers: bring published/ to exactly what dvc.lock names
	rm -rf published/files && dvc push --remote published

.venv/runtime: requirements.txt
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info < (3, 14) or sys.exit("error: found Python %d.%d; wanted 3.11, 3.12 or 3.13: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	$(PYTHON) -m venv .venv
	pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/development: .venv/runtime requirements-dev.txt
	pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@
