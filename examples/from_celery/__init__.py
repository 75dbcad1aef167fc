"""An example: a task of Celery, and the same as a job."""
