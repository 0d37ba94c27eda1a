"""Find what differs from the good template (BGNet, papers: docs/theory/defects.md)."""
