"""For operators: the command line, the start of a worker, the demo."""
