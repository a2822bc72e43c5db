"""Examples that come with the package: survey answers and a Django project."""
