"""All packets at once through the rules; rooms of one name with `trace` mean the same."""
