# `make demo` and `make test` are all a new user needs; both bring the machine up to what they need first.
.PHONY: demo test cluster-test lint coverage setup clean

demo: setup
	@.venv/bin/pytest --pyargs pytest_istio_sidecar.suite --istio-environment=embedded

test: setup
	@.venv/bin/pytest

# On a real kind cluster of the test bed beside the checkout (tests/cluster/README.md); skips without one.
cluster-test: setup
	@.venv/bin/pytest tests/cluster

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
