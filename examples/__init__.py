"""Runnable examples: an embedded local AWS, and a demo that deploys this project into it."""
