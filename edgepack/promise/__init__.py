"""`--max-drop`: the fastest form of a model that keeps what was promised."""
