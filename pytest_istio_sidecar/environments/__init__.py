"""Bring up, or find, what is read; take down what was brought up."""
