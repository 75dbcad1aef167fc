"""Pure decisions: which write comes next, when, and with which result. ``now`` is always an argument."""
