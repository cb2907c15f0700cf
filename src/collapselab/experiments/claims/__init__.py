"""Sentences that measured rows can support or contradict, and how they are judged."""
