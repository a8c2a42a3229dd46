# `make demo` and `make test` are all a new user needs; both bring the machine up to what they need first.
.PHONY: demo test lint coverage setup clean

demo: setup
	@.venv/bin/pytest --pyargs pytest_istio_sidecar.suite --istio-environment=embedded

test: setup
	@.venv/bin/pytest

lint: setup
	@scripts/lint

coverage: setup
	@.venv/bin/coverage run -m pytest
	@.venv/bin/coverage combine --quiet
	@.venv/bin/coverage report

setup:
	@scripts/setup

clean:
	rm -rf .venv .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist
