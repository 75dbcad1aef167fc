"""What tests of an application need: an AWS in memory, a clock that moves, and pytest fixtures (docs/testing.md)."""
