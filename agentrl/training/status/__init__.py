"""How a run is getting on: what it writes about itself while it goes on, and what that says to a reader."""
