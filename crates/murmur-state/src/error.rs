use std::fmt;
use std::sync::Arc;

use crate::ids::{IdError, ItemId, Key};
use crate::time::Timestamp;

/// The error behind an error, kept for `source()`; shared, because one failed write can be the
/// answer to many records.
pub type Cause = Arc<dyn std::error::Error + Send + Sync>;

/// Where a store error happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The kind of store, for example `Int64SumStore`.
    pub store: &'static str,
    /// The table, or what stands for it.
    pub table: Arc<str>,
    /// The row, where one is to blame.
    pub key: Option<Box<Key>>,
}

impl Place {
    /// A table as a whole.
    pub fn table(store: &'static str, table: impl Into<Arc<str>>) -> Self {
        Self {
            store,
            table: table.into(),
            key: None,
        }
    }

    /// The same table, at `key`.
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

/// What a failure asks of the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// This one record is proven never to be storable; its neighbours are not concerned. Hand it
    /// to a person (the callback for rejected records) or report it.
    Record,
    /// Others got in the way (throttling, a conflict). Trying again helps and costs only time.
    Contention,
    /// The service or the way to it failed. Trying again may help; attempts are limited.
    Transient,
    /// Nothing will work until somebody mends the set-up (a missing table, no permission, a row
    /// of the wrong shape). The records are fine: report them, so that they come again.
    Setup,
}

/// An error that knows what it asks of the caller, so that [`Retry`](crate::Retry) can act on it.
pub trait Failure: std::error::Error {
    /// What the failure asks of the caller.
    fn fault(&self) -> Fault;

    /// Whether trying the same again can help.
    fn is_retryable(&self) -> bool {
        matches!(self.fault(), Fault::Contention | Fault::Transient)
    }
}

/// Why a store could not do what it was asked.
///
/// [`fault`](StoreError::fault) says what the caller can do about it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The table's or partition's capacity is used up.
    #[error("{place}: throttled; it is tried again while time allows, more capacity helps")]
    Throttled {
        /// Where.
        place: Place,
        /// The answer that said so.
        #[source]
        source: Option<Cause>,
    },
    /// Another writer was at the same row.
    #[error("{place}: another writer was at the same row; it is tried again while time allows")]
    Conflict {
        /// Where.
        place: Place,
        /// The answer that said so.
        #[source]
        source: Option<Cause>,
    },
    /// A compare-and-swap lost to other writers as often as it was allowed to.
    #[error(
        "{place}: lost the compare-and-swap {attempts} times; raise `max_retries`, or spread the writes over more keys"
    )]
    RetriesExhausted {
        /// Where.
        place: Place,
        /// How often it was tried.
        attempts: u32,
    },
    /// A server error, a timeout or a broken connection.
    #[error("{place}: the request failed{}", if *may_have_applied { ", and may have been applied" } else { "" })]
    Unavailable {
        /// Where.
        place: Place,
        /// Whether the write may have happened although no answer came.
        may_have_applied: bool,
        /// What failed.
        #[source]
        source: Option<Cause>,
    },
    /// The deadline passed before the work could be done.
    #[error(
        "{place}: not finished before the deadline; it was not begun, and is safe to send again"
    )]
    DeadlinePassed {
        /// Where.
        place: Place,
    },
    /// The record names a key or id that cannot exist.
    #[error("the record's key or id cannot be used")]
    InvalidId(#[source] IdError),
    /// The result would not fit the row.
    #[error("{place}: the value would leave the range of its type; the total is unchanged")]
    Overflow {
        /// Where.
        place: Place,
    },
    /// This one value is proven to fit no row: too large by itself, a number out of range, a key
    /// that no row can have. A request that the service refuses for another reason is
    /// [`Setup`](Self::Setup).
    #[error("{place}: the value cannot be stored: {reason}")]
    InvalidValue {
        /// Where.
        place: Place,
        /// What is wrong with it.
        reason: String,
        /// The answer that said so.
        #[source]
        source: Option<Cause>,
    },
    /// Time to Live may remove the row within two hours, and what came then would make it anew.
    #[error(
        "{place}: the row may be removed from {ttl} s after 1970 on, and nothing is added in the two hours before that; give the window a longer retention"
    )]
    RowEnds {
        /// Where.
        place: Place,
        /// The row's `ttl`, in seconds since the epoch.
        ttl: i64,
    },
    /// An event without a creation time was handed over so long ago that what was known of it may be
    /// forgotten. It is not written; its source has it still, and hands it over again.
    #[error(
        "{place}: an event without a creation time was handed over more than an hour ago, so it is not written; report it, and it comes again"
    )]
    HeldTooLong {
        /// Where.
        place: Place,
        /// When it was handed over.
        handed_over: Timestamp,
    },
    /// The event is too old to be told from one already taken.
    #[error(
        "{place}: the event of {created} is older than the store remembers events; not applied"
    )]
    TooOld {
        /// Where.
        place: Place,
        /// When the event was created.
        created: Timestamp,
    },
    /// A row has grown to the service's size limit.
    #[error(
        "{place}: the row is at the item size limit of 400 KB; split the key, or use a smaller value"
    )]
    RowTooLarge {
        /// Where.
        place: Place,
    },
    /// A row of the table does not have the shape this store writes.
    #[error(
        "{place}: attribute `{attribute}` is {found}, expected {expected}; mend the row, or point the pipeline at its own table"
    )]
    WrongShape {
        /// Where.
        place: Place,
        /// Which attribute.
        attribute: &'static str,
        /// What it is.
        found: String,
        /// What it should be.
        expected: &'static str,
        /// The decoding error, for bytes.
        #[source]
        source: Option<Cause>,
    },
    /// The row belongs to another delivery mode.
    #[error(
        "{place}: the row was written by {found}, and this is {wanted}; modes never mix in a table, use a new state table"
    )]
    OtherMode {
        /// Where.
        place: Place,
        /// The mode whose traces the row carries.
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
        /// Whom the rows belong to.
        found: Box<str>,
        /// Who wanted to write.
        wanted: Box<str>,
    },
    /// The set-up is wrong: `advice` says what to do.
    #[error("{place}: {advice}")]
    Setup {
        /// Where.
        place: Place,
        /// What to do.
        advice: String,
        /// What failed.
        #[source]
        source: Option<Cause>,
    },
}

impl StoreError {
    /// What the failure asks of the caller.
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

    /// The same failure of a request that carried no record: what would be a record's fault is
    /// the set-up's.
    #[must_use]
    pub fn blameless(self, place: Place) -> Self {
        match self.fault() {
            Fault::Record => Self::Setup {
                place,
                advice:
                    "a request that carries no record was refused; mend the set-up by what the \
                         cause says"
                        .to_owned(),
                source: Some(Arc::new(self)),
            },
            Fault::Contention | Fault::Transient | Fault::Setup => self,
        }
    }

    /// A change of `item`, which has [settled](crate::Ledger#what-settles), without what the item was
    /// before.
    pub fn unknown_before(place: Place, item: &ItemId) -> Self {
        Self::Setup {
            place,
            advice: format!(
                "item {item} has settled, and the change does not say what it was before: run every \
                 process with `.settle()` in the definition, on a stream of NEW_AND_OLD_IMAGES; where \
                 it is the record itself that cannot be read, begin anew as a new version"
            ),
            source: None,
        }
    }

    /// The same failure of a change of `item`, which has [settled](crate::Ledger#what-settles): what
    /// would be the record's fault must not be passed over, because the item's next change takes back
    /// what this one should have added. Only what comes too late is left as it is
    /// ([`TooOld`](StoreError::TooOld), [`RowEnds`](StoreError::RowEnds)): it can never be counted.
    #[must_use]
    pub fn of_settled(self, place: Place, item: &ItemId) -> Self {
        match (&self, self.fault()) {
            (Self::TooOld { .. } | Self::RowEnds { .. }, _) => self,
            (_, Fault::Record) => Self::Setup {
                place,
                advice: format!(
                    "a change of item {item}, which has settled, cannot be counted, and is not passed \
                     over, because every later total of its keys would be wrong: mend the item or the \
                     keys' other items by what the cause says, or begin anew as a new version"
                ),
                source: Some(Arc::new(self)),
            },
            _ => self,
        }
    }

    /// Whether trying the same again can help.
    pub fn is_retryable(&self) -> bool {
        Failure::is_retryable(self)
    }
}

impl Failure for StoreError {
    fn fault(&self) -> Fault {
        StoreError::fault(self)
    }
}

/// A setting that cannot be used; the message names it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("option `{option}`: {reason}")]
pub struct OptionError {
    /// The option's name, as the builder method is called.
    pub option: &'static str,
    /// What is wrong with it, and what would be right.
    pub reason: String,
}

impl OptionError {
    /// An error about `option`.
    pub fn new(option: &'static str, reason: impl Into<String>) -> Self {
        Self {
            option,
            reason: reason.into(),
        }
    }
}
