#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod convert;
mod handler;
mod lenient;
mod mapping;
#[cfg(feature = "runtime")]
mod runtime;

/// The types of Lambda's own that a handler takes and gives.
pub use aws_lambda_events::event::dynamodb::Event;
pub use aws_lambda_events::streams::DynamoDbEventResponse;
pub use handler::{Handler, HandlerBuilder, InvocationError};
pub use lenient::LenientEvent;
pub use mapping::{Mapping, MappingUnfit};
#[cfg(feature = "runtime")]
pub use runtime::{NotInLambda, run};
