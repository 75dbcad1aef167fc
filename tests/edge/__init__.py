"""The Lambda functions: logs, metrics, cold start, the runtime's protocol."""
