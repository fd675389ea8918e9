use std::fmt;
use std::sync::Arc;

use crate::ids::{IdError, ItemId, Key};
use crate::time::Timestamp;

/// The error behind an error, kept for `source()`. It is shared, because one failed write can
/// affect many records.
pub type Cause = Arc<dyn std::error::Error + Send + Sync>;

/// Where a store error happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The kind of store, such as `Int64SumStore`.
    pub store: &'static str,
    /// The table, or the equivalent of one.
    pub table: Arc<str>,
    /// The row, if the error is about one.
    pub key: Option<Box<Key>>,
}

impl Place {
    /// A whole table.
    pub fn table(store: &'static str, table: impl Into<Arc<str>>) -> Self {
        Self {
            store,
            table: table.into(),
            key: None,
        }
    }

    /// The row of `key` in the same table.
    pub fn at(&self, key: &Key) -> Self {
        Self {
            key: Some(Box::new(key.clone())),
            ..self.clone()
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on table `{}`", self.store, self.table)?;
        match &self.key {
            Some(key) => write!(f, ", key {key}"),
            None => Ok(()),
        }
    }
}

/// What the caller can do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The record itself is at fault and can never be stored; other records are not affected. Hand
    /// it to a person (the callback for rejected records), or report it.
    Record,
    /// Other work interfered (throttling, a conflict). A retry helps, and costs only time.
    Contention,
    /// The service or the network failed. A retry may help; attempts are limited.
    Transient,
    /// The setup is wrong (a missing table, no permission, a row of the wrong shape), and nothing
    /// works until it is fixed. The records are fine: report them as failed, so that they are
    /// delivered again.
    Setup,
}

/// An error with a [`Fault`], so that [`Retry`](crate::Retry) can act on it.
pub trait Failure: std::error::Error {
    /// What the caller can do about it.
    fn fault(&self) -> Fault;

    /// Whether a retry can help.
    fn is_retryable(&self) -> bool {
        matches!(self.fault(), Fault::Contention | Fault::Transient)
    }
}

/// Why a store could not complete an operation.
///
/// [`fault`](StoreError::fault) says what the caller can do about it.
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The capacity of the table or partition is used up.
    #[error("{place}: throttled; it is tried again while time allows, more capacity helps")]
    Throttled {
        /// Where.
        place: Place,
        /// The service's answer.
        #[source]
        source: Option<Cause>,
    },
    /// Another writer changed the same row at the same time.
    #[error("{place}: another writer was at the same row; it is tried again while time allows")]
    Conflict {
        /// Where.
        place: Place,
        /// The service's answer.
        #[source]
        source: Option<Cause>,
    },
    /// A compare-and-swap lost to other writers in all its attempts.
    #[error(
        "{place}: lost the compare-and-swap {attempts} times; raise `max_retries`, or spread the writes over more keys"
    )]
    RetriesExhausted {
        /// Where.
        place: Place,
        /// The number of attempts.
        attempts: u32,
    },
    /// A server error, a timeout or a broken connection.
    #[error("{place}: the request failed{}", if *may_have_applied { ", and may have been applied" } else { "" })]
    Unavailable {
        /// Where.
        place: Place,
        /// Whether the write may have been applied although no answer arrived.
        may_have_applied: bool,
        /// The cause.
        #[source]
        source: Option<Cause>,
    },
    /// The deadline passed before the work began.
    #[error(
        "{place}: not finished before the deadline; it was not begun, and is safe to send again"
    )]
    DeadlinePassed {
        /// Where.
        place: Place,
    },
    /// The record has a key or id that cannot be used.
    #[error("the record's key or id cannot be used")]
    InvalidId(#[source] IdError),
    /// The result does not fit the type of the value.
    #[error("{place}: the value would leave the range of its type; the total is unchanged")]
    Overflow {
        /// Where.
        place: Place,
    },
    /// This one value fits no row: it is too large by itself, a number out of range, or a key that
    /// no row can have. A request that the service refuses for another reason is
    /// [`Setup`](Self::Setup).
    #[error("{place}: the value cannot be stored: {reason}")]
    InvalidValue {
        /// Where.
        place: Place,
        /// The reason.
        reason: String,
        /// The service's answer.
        #[source]
        source: Option<Cause>,
    },
    /// Time to Live may remove the row within two hours. An addition after that would create the
    /// row again, with a part of its value.
    #[error(
        "{place}: Time to Live may remove the row from {} on, and nothing is added in the two hours before that; give the window a longer retention", Timestamp::from_secs(*ttl)
    )]
    RowEnds {
        /// Where.
        place: Place,
        /// The row's `ttl`, in seconds since the epoch.
        ttl: i64,
    },
    /// An event without a creation time was handed over so long ago that its marker may have
    /// expired. It is not written; its source still has it, and delivers it again.
    #[error(
        "{place}: an event without a creation time was handed over more than an hour ago, so it is not written; report it, and it comes again"
    )]
    HeldTooLong {
        /// Where.
        place: Place,
        /// When it was handed over.
        handed_over: Timestamp,
    },
    /// The event is too old: its marker may have expired, so it cannot be told from an event
    /// already counted.
    #[error(
        "{place}: the event of {created} is older than the store remembers events; it was not counted"
    )]
    TooOld {
        /// Where.
        place: Place,
        /// When the event was created.
        created: Timestamp,
    },
    /// A row has reached the service's size limit.
    #[error(
        "{place}: the row is at the item size limit of 400 KB; split the key, or use a smaller value"
    )]
    RowTooLarge {
        /// Where.
        place: Place,
    },
    /// A row of the table does not have the shape that this store writes.
    #[error(
        "{place}: attribute `{attribute}` is {found}, expected {expected}; fix the row, or point the pipeline at its own table"
    )]
    WrongShape {
        /// Where.
        place: Place,
        /// The attribute.
        attribute: &'static str,
        /// The type or value found.
        found: String,
        /// The type or value expected.
        expected: &'static str,
        /// The decoding error, for bytes.
        #[source]
        source: Option<Cause>,
    },
    /// The row was written in another delivery mode.
    #[error(
        "{place}: the row was written by {found}, and this is {wanted}; modes never mix in a table, use a new state table"
    )]
    OtherMode {
        /// Where.
        place: Place,
        /// The mode that the row was written in.
        found: &'static str,
        /// The mode of this write.
        wanted: &'static str,
    },
    /// The rows belong to another pipeline, definition, mode or stream.
    #[error(
        "{place}: its rows belong to {found}, and this is {wanted}; give each pipeline, and each version of its definition, a state table of its own"
    )]
    OtherOwner {
        /// Where.
        place: Place,
        /// The owner of the rows.
        found: Box<str>,
        /// The pipeline that wanted to write.
        wanted: Box<str>,
    },
    /// The setup is wrong; `advice` says what to do.
    #[error("{place}: {advice}")]
    Setup {
        /// Where.
        place: Place,
        /// What to do.
        advice: String,
        /// The cause.
        #[source]
        source: Option<Cause>,
    },
}

crate::debug_as_message!(StoreError);

impl StoreError {
    /// What the caller can do about it.
    pub fn fault(&self) -> Fault {
        match self {
            Self::InvalidId(_)
            | Self::Overflow { .. }
            | Self::InvalidValue { .. }
            | Self::TooOld { .. }
            | Self::RowEnds { .. } => Fault::Record,
            Self::Throttled { .. } | Self::Conflict { .. } | Self::RetriesExhausted { .. } => {
                Fault::Contention
            }
            Self::Unavailable { .. } | Self::DeadlinePassed { .. } | Self::HeldTooLong { .. } => {
                Fault::Transient
            }
            Self::RowTooLarge { .. }
            | Self::WrongShape { .. }
            | Self::OtherMode { .. }
            | Self::OtherOwner { .. }
            | Self::Setup { .. } => Fault::Setup,
        }
    }

    /// Converts the failure of a request that carried no record: a record's fault becomes a setup
    /// fault.
    #[must_use]
    pub fn blameless(self, place: Place) -> Self {
        match self.fault() {
            Fault::Record => Self::Setup {
                place,
                advice:
                    "a request that carries no record was refused; fix the setup according to the \
                         cause"
                        .to_owned(),
                source: Some(Arc::new(self)),
            },
            Fault::Contention | Fault::Transient | Fault::Setup => self,
        }
    }

    /// A change of `item`, which has [settled](crate::Ledger#settling), that does not carry the
    /// state before it.
    pub fn unknown_before(place: Place, item: &ItemId) -> Self {
        Self::Setup {
            place,
            advice: format!(
                "item {item} has settled, and the change does not say what it was before; run every \
                 process with `.settle()` in the definition, on a stream of NEW_AND_OLD_IMAGES; if \
                 the record itself cannot be read, start over with a new version"
            ),
            source: None,
        }
    }

    /// Converts the failure of a change of `item`, which has [settled](crate::Ledger#settling). A
    /// record's fault becomes a setup fault: the change must not be passed over, because the item's
    /// next change takes back what this one should have added. A change that is too late
    /// ([`TooOld`](StoreError::TooOld), [`RowEnds`](StoreError::RowEnds)) keeps its fault, since it
    /// can never be counted.
    #[must_use]
    pub fn of_settled(self, place: Place, item: &ItemId) -> Self {
        match (&self, self.fault()) {
            (Self::TooOld { .. } | Self::RowEnds { .. }, _) => self,
            (_, Fault::Record) => Self::Setup {
                place,
                advice: format!(
                    "a change of item {item}, which has settled, cannot be counted; it is not passed \
                     over, because every later total of its keys would be wrong; fix the item or the \
                     keys' other items according to the cause, or start over with a new version"
                ),
                source: Some(Arc::new(self)),
            },
            _ => self,
        }
    }

    /// Whether a retry can help.
    pub fn is_retryable(&self) -> bool {
        Failure::is_retryable(self)
    }
}

impl Failure for StoreError {
    fn fault(&self) -> Fault {
        StoreError::fault(self)
    }
}

/// An option that cannot be used; the message names it.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("option `{option}`: {reason}")]
pub struct OptionError {
    /// The option's name: that of its builder method.
    pub option: &'static str,
    /// What is wrong with it, and what would be right.
    pub reason: String,
}

crate::debug_as_message!(OptionError);

impl OptionError {
    /// An error about `option`.
    pub fn new(option: &'static str, reason: impl Into<String>) -> Self {
        Self {
            option,
            reason: reason.into(),
        }
    }
}
