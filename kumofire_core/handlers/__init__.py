"""The application's handlers: their registry, the context they get, and calling them within a time limit."""
