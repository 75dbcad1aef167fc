"""An example: a thousand runs fanned out, and one that gathers what they returned."""
