"""OpenAI's Responses API: one request, a typed sequence of events, and what is kept of both."""
