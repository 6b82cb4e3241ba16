# Each goal does all its own set-up: a virtual environment in .venv and what the goal needs in it.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-slow test-torch lint clean

demo: .venv/ready-demo
	$(BIN)/edgepack demo --force
	$(BIN)/edgepack bench demo-out

test: .venv/ready-dev lint
	$(BIN)/python -m pytest -n 2 -m "not torch and not slow"

# Boards: real SSH, emulated ARM and old Intel, old Pythons. Debian packages: openssh-server iproute2
# qemu-user-static mmdebstrap. The report in a browser: chromium. What is missing is skipped, with the reason.
test-slow: .venv/ready-dev
	$(BIN)/python -m pytest -n 2 -m "slow and not torch"

# PyTorch is large, so its tests stand apart; on Linux the default wheel brings CUDA.
test-torch: .venv/ready-torch
	$(BIN)/python -m pytest -m torch

lint: .venv/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/ready-demo: .venv/bin/python pyproject.toml
	$(PIP) -e .
	touch $@

.venv/ready-dev: .venv/bin/python pyproject.toml
	$(PIP) -e '.[dev]'
	touch $@

.venv/ready-torch: .venv/ready-dev
	$(PIP) -e '.[torch]'
	touch $@

clean:
	rm -rf .venv demo-out demo-out.tar.gz
