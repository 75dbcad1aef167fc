"""Programs for working on this repository, called by the Makefile. They need Python 3.11 with pip, and nothing else."""
