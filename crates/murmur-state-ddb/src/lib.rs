//! State stores, deduper and table helpers of Murmur on DynamoDB.
