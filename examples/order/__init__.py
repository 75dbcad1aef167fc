"""An example: an order in steps, with an approval by a person, and the way back."""
