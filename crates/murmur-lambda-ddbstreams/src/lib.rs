#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod convert;
mod handler;
mod lenient;
mod mapping;
#[cfg(feature = "runtime")]
mod runtime;

/// Lambda's own types that a handler takes and returns.
pub use aws_lambda_events::event::dynamodb::Event;
pub use aws_lambda_events::streams::DynamoDbEventResponse;
pub use handler::{Handler, HandlerBuilder, InvocationError};
pub use lenient::LenientEvent;
pub use mapping::{Mapping, MappingUnfit};
#[cfg(feature = "runtime")]
pub use runtime::{NotInLambda, run};
