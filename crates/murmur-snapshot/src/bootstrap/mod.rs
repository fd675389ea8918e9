//! Fills the state of pipelines from a snapshot, once.

mod builder;
mod counts;
mod error;
mod fit;
mod progress;
mod proof;
mod register;
mod rejections;
mod report;
mod run;
mod scan;
mod segment_row;
mod segments;
mod token_check;
mod watch;

pub use builder::BootstrapBuilder;
pub use counts::Counts;
pub use error::BootstrapError;
pub use progress::Progress;
pub use rejections::FirstRejected;
pub use report::{Earlier, Ended, NoToken, Report};
pub use run::Bootstrap;
