"""Rewards that a model gives to itself, and their controls. Each takes the place of the environment's reward."""
