"""Several relays as one: the pure part, which takes time and answers as arguments and returns what to do.

A provider's sessions are held by one node at a time, its *owner*. The owner numbers the events of the provider's topics and
appends them to two logs in the shared store; every other node reads the logs and publishes the same events under the same
numbers. See `relay.cluster.lease` for who is the owner, `relay.cluster.log` for the logs, and `relay.cluster.replica` for
one node's part in one provider.
"""
