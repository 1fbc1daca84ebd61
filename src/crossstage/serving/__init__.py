"""Models behind HTTP: an interface for programs and a page for people, on one machine."""
