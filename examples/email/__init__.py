"""An example: an email with retries, sent once however often it is asked for."""
