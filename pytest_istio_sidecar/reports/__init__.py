"""Findings and traces, turned into what a person or a program reads."""
