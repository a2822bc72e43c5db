"""Imports formrelay's actors while Django loads its apps."""

from formrelay.actors import save_submission

__all__ = ["save_submission"]
