//! Records that are gone before they were read.

use std::fmt;
use std::time::Duration;

use murmur_state::Timestamp;

/// What a trigger does when it finds that records it has not read are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnGap {
    /// It stops with [`TriggerError::Gap`](crate::TriggerError::Gap), each time it is run. The
    /// state lacks changes, and needs a repair or a new bootstrap.
    #[default]
    Fail,
    /// It continues with the oldest record there is, counts the gap
    /// ([`Summary::gaps`](crate::Summary::gaps), `<name>:gap`) and logs it as an error.
    Continue,
}

/// How records were lost that the trigger has not read.
///
/// In doubt a gap is assumed: a reader that was away for longer than the stream keeps its records
/// cannot know that nothing was put meanwhile. If only clocks can tell, the limit is 22 h 30 min,
/// because each of two clocks may be wrong by 45 min.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Gap {
    /// The position is older than the oldest record there is.
    Trimmed,
    /// The shard is gone, and was not read to its end.
    ShardGone,
    /// The shard continues one that is gone and that no reader has read.
    ParentGone {
        /// The shard that it continues.
        parent: String,
    },
    /// Records put after the time up to which everything is done may have been trimmed.
    Away {
        /// That time.
        through: Timestamp,
        /// How long ago that was.
        since: Duration,
    },
    /// The shard was begun at LATEST and had no record yet when its iterator expired. Records put
    /// between its last read and the next cannot be told from older ones.
    LatestExpired,
    /// A shard that the handoff token lists as open was not begun within the 24 hours for which a
    /// stream keeps its records, so the token is void.
    HandoffVoid {
        /// When the token was captured.
        captured_at: Timestamp,
    },
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Trimmed => {
                f.write_str("the records after its position are trimmed (a stream keeps 24 hours)")
            }
            Self::ShardGone => f.write_str("it is gone, and was not read to its end"),
            Self::ParentGone { parent } => write!(
                f,
                "it continues the shard `{parent}`, which is gone and was never read"
            ),
            Self::Away { through, since } => write!(
                f,
                "it was read up to {through}, {} hours ago, and a stream keeps its records for 24 hours",
                since.as_secs() / 3600
            ),
            Self::LatestExpired => f.write_str(
                "it was begun at LATEST, and its iterator expired before the first record, so its place is lost (an iterator expires after 15 minutes)",
            ),
            Self::HandoffVoid { captured_at } => write!(
                f,
                "the handoff token was captured at {captured_at}, and the shard was not begun within the 24 hours for which a stream keeps its records: the token is void"
            ),
        }
    }
}
