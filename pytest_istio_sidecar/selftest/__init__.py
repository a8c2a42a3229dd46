"""Are broken rules noticed? Mutants of rules, the suite's verdict on each, and what a kernel does."""
