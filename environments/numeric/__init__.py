"""Environments whose answer is a number: data sets, notations of numbers as text, and two environments over them."""
