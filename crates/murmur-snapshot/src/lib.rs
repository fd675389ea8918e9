//! Filling a Murmur pipeline from a snapshot: source contract, bootstrap runner, JSON Lines source.
