"""Latency and profiles: asked for here, measured by the device's side, and made sense of here."""
