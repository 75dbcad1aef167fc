"""What is stored and sent, as plain values: runs, schedules, writes, messages. Standard library only."""
