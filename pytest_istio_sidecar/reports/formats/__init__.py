"""The forms a report can take."""
