"""What every client of a server needs: retries, hidden secrets, one object per event loop, a reachability check.

Used by tools and policies; imports neither.
"""
