"""Rules beside the ones expected."""
