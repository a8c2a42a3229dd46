"""Interval decision diagrams. They know nothing of packets."""
