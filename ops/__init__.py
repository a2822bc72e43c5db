"""What operators use: the command line, the worker's start, the demo."""
