"""What a run says of itself: events.jsonl, one JSON object a line, and the progress that a person watches."""
