"""Loads pytester, which the tests of the plugin run inner sessions with."""

pytest_plugins = ["pytester"]
