"""Bad input: wrong arguments, malformed messages, corrupt and older items."""
