"""What pytest loads at its start: option names and hooks, and nothing heavy."""
