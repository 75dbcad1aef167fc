"""The checks of the doctor: each takes an examination, looks at one thing, and returns what is wrong with it."""
