"""Model folders from files of other programs."""
