"""The Lambda edge: the functions that AWS calls, and the place where an application registers its jobs."""
