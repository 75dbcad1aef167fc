"""Runs: a created run ends, one attempt at a time, a final status stays, and what each step costs."""
