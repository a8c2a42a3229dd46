"""This machine: processes, commands, leases, downloads, and what is kept of a run."""
