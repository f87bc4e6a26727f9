"""Passages that answer a query: an index of vectors beside the texts, its requests, and prompts of what it finds."""
