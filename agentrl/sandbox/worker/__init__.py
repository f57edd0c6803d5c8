"""The program that runs inside a sandbox. Owns forking, limits and capture there; imports the standard library only.

The host packs this folder into a zip file and starts it with the sandbox's own Python (3.9 or newer).
"""
