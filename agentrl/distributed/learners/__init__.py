"""A learner of several ranks: one is the trainer's process, which starts the others and says what all of them do."""
