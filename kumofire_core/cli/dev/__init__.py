"""``kumofire dev``: an application's jobs on a local AWS, for who writes them. The extra ``local`` installs its needs.

``command`` is the command, ``local_aws`` starts ``emulator`` in a process of its own, and ``worker`` is the process
that executes the jobs.
"""
