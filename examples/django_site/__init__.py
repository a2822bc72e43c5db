"""A small Django project with the API of a form platform (see README.md here)."""
