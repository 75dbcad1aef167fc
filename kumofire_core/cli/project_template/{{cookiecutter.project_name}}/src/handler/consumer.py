"""The function behind the queue; it runs the jobs of ``handler.jobs``, or of where ``KUMOFIRE_JOBS`` says."""

from kumofire_core.edge import consumer_handler

handler = consumer_handler()
