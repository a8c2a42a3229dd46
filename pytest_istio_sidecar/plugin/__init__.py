"""All that belongs to pytest. This module is the entry point, and stays light: every pytest run loads it."""

pytest_plugins = ("pytest_istio_sidecar.plugin.hooks", "pytest_istio_sidecar.plugin.fixtures")
