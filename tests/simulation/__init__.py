"""Deterministic simulation: the real engine in a simulated world that one seed drives. docs/simulation.md tells how."""
