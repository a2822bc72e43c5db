"""Examples in the package: survey answers and a Django project."""
