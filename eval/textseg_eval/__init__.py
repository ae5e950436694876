"""Measures masks and edits against annotations: protocols, counters, compared methods, reports."""
