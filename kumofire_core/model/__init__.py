"""Stored items and messages as plain values: runs, schedules, writes. Imports the standard library only."""
