"""`detect`: find every blob in a crowd, its center, its size, and the count (CADSN)."""
