"""Schedules: when they fire, that each occurrence makes one run, and what people change."""
