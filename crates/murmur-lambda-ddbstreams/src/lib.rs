//! A Lambda handler that keeps Murmur pipelines live from a DynamoDB Streams trigger.
