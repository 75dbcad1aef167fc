"""Makes the documentation's site from docs/, the pages at the root, and the docstrings; writes docs/llms.txt.

What is read on GitHub and what is built are the same files. ``pages`` prepares them for the builder, ``reference`` has
what the API reference holds, ``docstrings`` is loaded by the builder, and ``llms`` has the lists for programs.
"""
