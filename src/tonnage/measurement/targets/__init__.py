"""A prompt -> what a server, a workflow or a function answered, and when each piece of it came."""
