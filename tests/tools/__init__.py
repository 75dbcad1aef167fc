"""The programs for working on this repository."""
