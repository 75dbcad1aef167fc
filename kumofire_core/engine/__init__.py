"""The order of steps: create, consume, dispatch, schedules, cancel and retry."""
