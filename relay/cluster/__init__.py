"""Several relays that act as one.

One node at a time holds a provider's sessions: the provider's *owner*. The owner numbers the events of the provider's topics
and appends them to two logs in the shared store. Every other node reads the logs and publishes the same events with the same
numbers. `relay.cluster.lease` chooses the owner, `relay.cluster.log` has the logs, and `relay.cluster.replica` reads or
writes the logs of one provider on one node.
"""
