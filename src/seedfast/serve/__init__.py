"""A model behind an HTTP endpoint that clients of OpenAI's API can call."""
