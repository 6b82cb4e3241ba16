"""Samples: files become checked feeds, with what they are judged by."""
