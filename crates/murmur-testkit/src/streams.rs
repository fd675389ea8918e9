//! The Streams API on an in-process stream store, as far as a handoff needs it.

use aws_sdk_dynamodbstreams::config::{BehaviorVersion, Credentials, Region};
use murmur_streams::StreamStore;
use serde_json::{Value, json};

use crate::runs::must;
use crate::wire::{Action, Wire};

/// A client that describes the streams of `store` at the time of each request, with all shards in
/// one page.
///
/// # Panics
///
/// For any other request, and for a stream that does not exist.
pub fn describing(store: &StreamStore) -> aws_sdk_dynamodbstreams::Client {
    let store = store.clone();
    let wire = Wire::new(move |request| {
        assert_eq!(request.operation, "DescribeStream");
        let arn = request.body["StreamArn"].as_str().unwrap_or_default();
        Action::Answer {
            status: 200,
            body: description(&store, arn).to_string(),
        }
    });
    let config = aws_sdk_dynamodbstreams::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static("us-east-1"))
        .credentials_provider(Credentials::new("murmur", "murmur", None, None, "testkit"))
        .endpoint_url("http://streams.invalid")
        .http_client(wire.counting_only())
        .build();
    aws_sdk_dynamodbstreams::Client::from_conf(config)
}

fn description(store: &StreamStore, arn: &str) -> Value {
    let description = must("the stream", store.describe_stream(arn));
    let shards: Vec<Value> = description
        .shards
        .iter()
        .map(|shard| {
            let mut range = json!({});
            let ends = [
                ("StartingSequenceNumber", &shard.first),
                ("EndingSequenceNumber", &shard.ending),
            ];
            for (name, number) in ends {
                if let Some(number) = number {
                    range[name] = json!(number.as_str());
                }
            }
            let mut listed = json!({ "ShardId": shard.id, "SequenceNumberRange": range });
            if let Some(parent) = &shard.parent {
                listed["ParentShardId"] = json!(parent);
            }
            listed
        })
        .collect();
    json!({ "StreamDescription": {
        "StreamArn": arn,
        "StreamLabel": description.info.stream_label,
        "StreamStatus": "ENABLED",
        "StreamViewType": "NEW_AND_OLD_IMAGES",
        "TableName": description.info.table_name,
        "KeySchema": [{ "AttributeName": "id", "KeyType": "HASH" }],
        "Shards": shards,
    } })
}
