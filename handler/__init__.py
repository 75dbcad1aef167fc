"""The Lambda functions that AWS calls, and the jobs of this application."""
