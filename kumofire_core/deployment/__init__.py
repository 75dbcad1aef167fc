"""Looks at a deployment from outside: finds it, examines it, and handles its dead letters. Never part of a function."""
