"""An example: an order and the run that confirms it, in one DynamoDB transaction."""
