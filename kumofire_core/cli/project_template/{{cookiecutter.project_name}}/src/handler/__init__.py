"""The Lambda functions that AWS calls, and the jobs that they run."""
