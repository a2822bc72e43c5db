"""Sample input: ``anes96.csv``, 944 real survey answers (see README.md here)."""
