"""What an author's code starts in the event loop of a run: tasks and threads."""
