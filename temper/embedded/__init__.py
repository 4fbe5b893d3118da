"""The whole service on one machine, started by `temper up`: a small parent of an API, a worker and a private broker."""
