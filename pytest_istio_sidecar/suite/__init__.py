"""The shipped tests: the lab, claim by claim. Uses public names only."""
