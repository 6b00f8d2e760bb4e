"""Arbitration between policy and operator, and the safety rules for what the arm is told."""
