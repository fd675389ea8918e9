//! Parallel scan of a DynamoDB table as a Murmur snapshot source, and the handoff to its stream.
