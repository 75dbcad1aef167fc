"""The documentation: its links, its examples, the API reference, and the site."""
