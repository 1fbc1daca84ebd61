"""What the project measures, counts and studies, and what writes its pages; not part of the package."""
