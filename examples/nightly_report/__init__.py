"""An example: a report of each day, made in the following night by the clock of the shop's time zone."""
