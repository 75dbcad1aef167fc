"""An example: a thumbnail for every image that is uploaded to a bucket."""
