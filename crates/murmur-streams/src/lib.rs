//! DynamoDB Streams without Lambda: an in-process stream event store, and a trigger with Lambda's semantics over it or over the Streams API.
