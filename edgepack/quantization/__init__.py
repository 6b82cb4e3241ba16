"""Everything int8 needs to know, and what it does: ranges, rounding, which layer hurts."""
