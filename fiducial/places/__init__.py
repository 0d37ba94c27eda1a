"""FTFY: find a zoomed-in view in an overview."""
