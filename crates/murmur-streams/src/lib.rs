#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

// Module order: error → description → source → store, aws → trigger → builder. `item`, `record` and
// `handler` are below all of them. `trigger/mod.rs` lists the parts of the trigger.

#[cfg(feature = "aws")]
pub mod aws;
mod builder;
mod description;
mod error;
mod handler;
mod item;
mod record;
pub mod source;
pub mod store;
mod trigger;

pub use aws_lambda_events::event::dynamodb::{
    Event, EventRecord, KeyType, OperationType, StreamStatus, StreamViewType, UserIdentity,
};
pub use aws_lambda_events::streams::{DynamoDbBatchItemFailure, DynamoDbEventResponse};
pub use serde_dynamo::{AttributeValue, Item};

#[cfg(feature = "aws")]
pub use aws::{StreamsApi, describe_stream, describe_stream_info};
pub use builder::TriggerBuilder;
pub use description::StreamInfo;
pub use error::StreamError;
pub use handler::report_failures;
pub use record::{StreamRecord, time_to_live};
pub use source::StreamSource;
pub use store::{StoreSource, StreamStore};
pub use trigger::{
    FailedBatch, FailureCondition, Gap, Monitor, OnGap, ShardStatus, StartingPosition, Status,
    Summary, Trigger, TriggerError,
};
