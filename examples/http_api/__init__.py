"""An example: an HTTP API that creates runs, tells what became of them, and cancels them."""
