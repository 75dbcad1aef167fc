"""The function on the one-minute schedule."""

from kumofire_core.edge import dispatcher_handler

handler = dispatcher_handler()
