"""Chaos: real processes on an emulator, raced, killed and cut off, judged by a ledger that none of them can undo."""
