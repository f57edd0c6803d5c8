"""What is added to groups after they were played: reward components and preferences. Changes no success."""
