"""The function behind the table's stream, where large payloads are kept in a bucket."""

from kumofire_core.edge import cleaner_handler

handler = cleaner_handler()
