"""How far a judge can be trusted: agreement with labels, and what moves its score without moving the quality."""
