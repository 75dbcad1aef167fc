"""The artifact, the template, and the stack in a local AWS."""
