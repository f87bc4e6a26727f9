"""Between a client's text and an engine's token ids: dialects, detokenising, the loop that runs an engine."""
