"""Get tables and listeners out of a pod: each reader turns command output into a model."""
