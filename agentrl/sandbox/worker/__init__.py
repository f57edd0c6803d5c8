"""The program that runs inside a sandbox. Owns processes, limits and output there, not how the sandbox is made.

It imports the standard library only: the host packs this folder into a zip file, which the sandbox's own Python
(3.9 or newer) starts.
"""
