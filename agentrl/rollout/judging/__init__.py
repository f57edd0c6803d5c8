"""Policies that judge episodes by a rubric, and what protects a judge from what it judges."""
