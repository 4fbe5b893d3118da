"""All that learns: the Celery worker, the supervisor of trainers, the trainer."""
