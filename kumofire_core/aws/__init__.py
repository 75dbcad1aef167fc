"""The only package that talks to AWS: the table, the queue and their clients."""
