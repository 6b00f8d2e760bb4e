"""Arbitration between policy and operator, and the safety rules for the targets of the arm."""
