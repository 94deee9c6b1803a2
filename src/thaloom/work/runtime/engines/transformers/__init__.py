"""The engine of last resort (extra `transformers`): a server of ours over a library that knows nearly every model.

`server` is a program: a keeper starts it as it starts the servers of others, and the worker asks it in the same
protocol. It takes one request at a time. `language` is the only module that imports torch and transformers.
"""
