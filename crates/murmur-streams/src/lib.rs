#![doc = include_str!("../README.md")]

#[cfg(feature = "aws")]
mod aws;
mod builder;
mod description;
mod error;
mod handler;
mod item;
mod record;
mod source;
mod store;
mod trigger;

pub use aws_lambda_events::event::dynamodb::{
    Event, EventRecord, KeyType, OperationType, StreamStatus, StreamViewType, UserIdentity,
};
pub use aws_lambda_events::streams::{DynamoDbBatchItemFailure, DynamoDbEventResponse};
pub use serde_dynamo::{AttributeValue, Item};

#[cfg(feature = "aws")]
pub use aws::{StreamsApi, call_failure, describe_stream, describe_stream_info};
pub use builder::TriggerBuilder;
pub use description::{KeySchemaElement, ShardInfo, StreamDescription, StreamInfo};
pub use error::StreamError;
pub use handler::report_failures;

pub use record::{StreamRecord, time_to_live};
pub use source::{Cursor, ReadBatch, Start, StreamSource};
pub use store::{DescribePage, StoreSource, StreamStore};
pub use trigger::{
    FailedBatch, FailureCondition, Gap, Monitor, OnGap, ShardStatus, StartingPosition, Status,
    Summary, Trigger, TriggerError,
};
