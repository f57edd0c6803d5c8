"""Harbor's task folders: read as an environment, and written from environments of ours. Needs no package of Harbor."""
