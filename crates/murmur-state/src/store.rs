use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Fault, Place, StoreError};
use crate::ids::{EventId, ItemId, Key, PipelineName, SequenceNumber};
use crate::monoid::{Group, Monoid};
use crate::time::{Deadline, Timestamp};

/// How long after its creation an event may still come: a stream's 24 hours of retention, and
/// two hours for the spread of clocks and for stalls.
pub const HORIZON: Duration = Duration::from_secs(26 * 3600);

/// How old an event may be when it is first written: 49/52 of the [`HORIZON`], 24 h 30 min. Older
/// ones are refused as [`TooOld`](StoreError::TooOld), since what they left may be forgotten.
pub const EVENT_LIFE: Duration = Duration::from_secs(24 * 3600 + 30 * 60);

/// How long a row of a window outlives its retention. The last event that counts in it comes within
/// [`EVENT_LIFE`]; nothing is added in the two hours before Time to Live may remove it, so that it is
/// never made anew; the half hour left is for windows that go by the clock.
pub const ROW_LIFE: Duration = Duration::from_secs(27 * 3600);

/// How long a stream keeps its records for sure: 24 hours (Amazon DynamoDB Developer Guide,
/// "Change data capture for DynamoDB Streams") less twice the 45 minutes that a clock may be off,
/// since the clock that wrote a time and the one that reads it may be off to opposite sides.
/// Whoever has not begun to read by then may have missed something.
pub const SURE_LIFE: Duration = Duration::from_secs((24 * 60 - 2 * 45) * 60);

/// A value to be combined into one row.
#[derive(Debug, Clone, PartialEq)]
pub struct Add<V> {
    /// Which row.
    pub key: Key,
    /// What is combined into it.
    pub value: V,
    /// When the row may be removed: seconds since the epoch, `None` for never. Exactly-once adds nothing
    /// in the two hours before that ([`StoreError::RowEnds`]), so that the row is not made anew.
    pub ttl: Option<i64>,
}

/// An event that each of its keys takes at most once.
#[derive(Debug, Clone, PartialEq)]
pub struct Once<V> {
    /// What makes it the same event when it comes again.
    pub id: EventId,
    /// When it was created, as its source says; `None` if the source does not say.
    pub created: Option<Timestamp>,
    /// When its source handed it over. An event without creation time may be given up an hour after
    /// that, with [`StoreError::HeldTooLong`]: its source has it still.
    pub handed_over: Timestamp,
    /// What it adds, one entry per key. A second entry of the same key counts as a duplicate.
    pub adds: Vec<Add<V>>,
}

/// What one source item contributes from now on, in place of what it contributed before.
#[derive(Debug, Clone, PartialEq)]
pub struct Replace<V> {
    /// The item.
    pub item: ItemId,
    /// Where this version of it was seen.
    pub at: Position,
    /// When this version was made, as its source says; `None` if the source does not say.
    pub created: Option<Timestamp>,
    /// All it contributes now, one entry per key; nothing for an item that is gone or skipped.
    pub now: Vec<Add<V>>,
    /// What stays in the state for good, one entry per key, whatever becomes of the item: what it
    /// contributed last, where Time to Live removed it and what has expired is to go on counting.
    /// Mostly nothing.
    pub keep: Vec<Add<V>>,
    /// The change that this is, by which an item settles and counts once it has settled; `None` for
    /// what a scan found, and where nothing tells what the item was before.
    pub change: Option<ItemChange<V>>,
}

/// A change of an item as an event of its own, which says what the item was before.
#[derive(Debug, Clone, PartialEq)]
pub struct ItemChange<V> {
    /// What makes it the same event when it comes again.
    pub id: EventId,
    /// When its source handed it over, as [`Once::handed_over`].
    pub handed_over: Timestamp,
    /// All the item contributed before the change, one entry per key, by the same function of its
    /// image as [`Replace::now`] is of the new one.
    pub before: Vec<Add<V>>,
    /// Whether the item is to settle by this change, if it has not yet.
    pub settles: bool,
}

/// What a ledger knows of an item.
#[derive(Debug, Clone, PartialEq)]
pub struct Known<V> {
    /// The item.
    pub item: ItemId,
    /// Another one with every change, also after the item was forgotten: what [`Mend`] goes by.
    pub version: u64,
    /// Where its newest version was seen; of a settled item, up to where changes have counted.
    pub at: Position,
    /// Whether it has settled: what it contributes is not known here any more, and its changes after
    /// [`at`](Known::at) count by themselves.
    pub settled: bool,
    /// What it contributes; nothing for a settled item.
    pub now: Vec<Add<V>>,
    /// What earlier items of its name contribute for good, one entry per key; what its rows no
    /// longer hold, since their `ttl` has passed, may be left out.
    pub kept: Vec<Add<V>>,
}

/// What an item is found to contribute when it is looked up in its table.
#[derive(Debug, Clone, PartialEq)]
pub struct Mend<V> {
    /// The item.
    pub item: ItemId,
    /// The version of what the ledger knew of it *before* the item was looked up; `None` if that
    /// was nothing.
    pub over: Option<u64>,
    /// All it contributes as it was found, one entry per key; nothing for an item that is gone.
    pub now: Vec<Add<V>>,
}

/// One row of state.
#[derive(Debug, Clone, PartialEq)]
pub struct StateRow<V> {
    /// Its key.
    pub key: Key,
    /// Its value.
    pub value: V,
    /// When it may be removed: seconds since the epoch, `None` for never.
    pub ttl: Option<i64>,
}

/// A part of a listing.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed<T> {
    /// The entries; there may be none although more follow.
    pub entries: Vec<T>,
    /// What the next part is asked for with; `None` if this is the last.
    pub next: Option<String>,
    /// What reading it cost in read units, where the store knows.
    pub read_units: Option<f64>,
}

/// One of the segments of a listing, which are listed side by side: each has its own `after`.
/// Together they hold every entry once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListSegment {
    number: u32,
    of: NonZeroU32,
}

impl ListSegment {
    /// The only segment of a listing that is not divided.
    pub const WHOLE: Self = Self {
        number: 0,
        of: NonZeroU32::MIN,
    };

    /// All segments of a listing that is divided into `of`; DynamoDB takes up to 1,000,000.
    pub fn all(of: NonZeroU32) -> impl Iterator<Item = Self> {
        (0..of.get()).map(move |number| Self { number, of })
    }

    /// Which one it is, counted from 0.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// How many there are.
    pub fn of(&self) -> NonZeroU32 {
        self.of
    }
}

/// Where a version of an item was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Position {
    /// In a scan of the table, which no sequence number orders against the stream.
    Scan,
    /// In the stream, at this sequence number.
    Stream(SequenceNumber),
}

/// What became of one entry of a batch.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// It is in the state now.
    Applied,
    /// It was in the state already, on every key; nothing changed.
    Duplicate,
    /// A later version of its item is in the state; nothing changed.
    Superseded,
    /// An earlier entry of one of its keys failed, so this one was not tried.
    Blocked,
    /// It is not in the state, or only on some of its keys; the error says why.
    Failed(StoreError),
}

impl Outcome {
    /// Becomes the worse of the two, for an entry of several parts: it is [`Duplicate`] only if
    /// every part is, and done only if every part is. Among failures, one that is not the
    /// entry's own fault is the worse, since the entry has to come again.
    ///
    /// [`Duplicate`]: Outcome::Duplicate
    pub fn worsen(&mut self, by: &Self) {
        if by.rank() > self.rank() {
            *self = by.clone();
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Duplicate | Self::Superseded => 0,
            Self::Applied => 1,
            Self::Failed(error) if error.fault() == Fault::Record => 2,
            Self::Blocked => 3,
            Self::Failed(_) => 4,
        }
    }
}

/// The name of the ledger's delivery mode, as it stands in a [`Binding`].
pub const LEDGER_MODE: &str = "ledger";

/// Whom a store's rows belong to.
///
/// Two pipelines, two versions of a definition or two modes on the same rows would each be wrong
/// without a sign of it, so a store keeps this beside its rows and refuses whatever differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The pipeline's name.
    pub pipeline: PipelineName,
    /// The version of its definition.
    pub version: u32,
    /// Its delivery mode, for example `exactly-once`.
    pub mode: Arc<str>,
    /// What of its definition decides what the rows hold, in words: window, retraction, monoid.
    pub definition: Arc<str>,
    /// The ARN of the stream its records come from; `None` as long as none came from a stream.
    pub stream: Option<Arc<str>>,
}

impl Binding {
    /// Whether work under `other` may go on in rows bound by `self`: all is equal, or one of the
    /// two names no stream.
    pub fn admits(&self, other: &Self) -> bool {
        let same_stream = match (&self.stream, &other.stream) {
            (Some(one), Some(two)) => one == two,
            _ => true,
        };
        same_stream
            && (&self.pipeline, self.version, &self.mode, &self.definition)
                == (
                    &other.pipeline,
                    other.version,
                    &other.mode,
                    &other.definition,
                )
    }
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            pipeline,
            version,
            mode,
            definition,
            stream,
        } = self;
        write!(
            f,
            "pipeline `{pipeline}`, version {version}, {mode}, {definition}"
        )?;
        match stream {
            Some(stream) => write!(f, ", of stream {stream}"),
            None => Ok(()),
        }
    }
}

/// Reading the state.
///
/// # Contract
///
/// `get_many` answers every key asked for, in the order asked, also if a key is asked for twice.
///
/// # Missing keys
///
/// `None`. A row of the wrong shape is an error, never a missing value.
///
/// # Consistency
///
/// A read that begins after a write was answered sees it, unless the implementation was told
/// otherwise by name.
///
/// # Cancel safety
///
/// Cancel safe: reading changes nothing.
pub trait Read<V>: Send + Sync + 'static {
    /// Where the rows are, as errors say it: the same in every process that reads the same rows,
    /// another one for other rows as far as names can tell. Two pipelines of one processor whose
    /// places name the same table are refused.
    fn place(&self) -> Place;

    /// The values of `keys`, one answer each.
    ///
    /// # Errors
    ///
    /// The first failure; there is no partial answer.
    fn get_many(
        &self,
        keys: &[Key],
    ) -> impl Future<Output = Result<Vec<Option<V>>, StoreError>> + Send;

    /// A part of all rows, in no order: the first for `None`, then each for the
    /// [`next`](Listed::next) of the one before. A row that is written while the parts are
    /// asked for is listed as it was before or after; one that is there all the while is listed
    /// once. A key that is kept in several rows ([`Spread`](crate::Spread)) has an entry for each,
    /// in any parts of the listing: together they combine to its value.
    ///
    /// # Errors
    ///
    /// As for [`get_many`](Read::get_many); the same part can be asked for again.
    fn list(
        &self,
        after: Option<&str>,
    ) -> impl Future<Output = Result<Listed<StateRow<V>>, StoreError>> + Send;
}

/// Conveniences over [`Read`].
pub trait ReadExt<V>: Read<V> {
    /// The value of one key.
    fn get(&self, key: &Key) -> impl Future<Output = Result<Option<V>, StoreError>> + Send {
        async move {
            Ok(self
                .get_many(std::slice::from_ref(key))
                .await?
                .pop()
                .flatten())
        }
    }
}

impl<V, R: Read<V> + ?Sized> ReadExt<V> for R {}

/// A state store for a monoid: the least a pipeline needs.
///
/// # Contract
///
/// `merge` combines each entry into its row and answers each, in order. An answer with more or fewer
/// outcomes than entries is a broken store: nothing of it counts as done. Entries of one key are
/// combined in the order given; entries of different keys in any order, concurrently.
///
/// # Atomicity
///
/// Each entry is one atomic read-modify-write of its row. Entries are not atomic together.
///
/// # Delivery
///
/// At least once. An implementation may try again only what it knows was not applied; a failure
/// that [may have been applied](StoreError::Unavailable) is returned, and the caller decides
/// whether to risk counting it twice. For an idempotent monoid there is no such risk.
///
/// # Errors
///
/// One per entry, as [`Outcome::Failed`]. After a failure that is not the entry's own fault
/// ([`Fault::Record`]), later entries of the same key are
/// [`Outcome::Blocked`] and not tried. Neighbours on other keys are never concerned.
///
/// # Cancel safety
///
/// Not cancel safe: if the future is dropped, each entry may or may not have been applied.
pub trait Store<M: Monoid>: Read<M::Value> {
    /// Combines `adds` into their rows, each as often as it is asked to.
    fn merge(
        &self,
        adds: &[Add<M::Value>],
        deadline: Deadline,
    ) -> impl Future<Output = Vec<Outcome>> + Send;
}

/// A store that knows which events a row has taken.
///
/// # Contract
///
/// Each key of an event takes it at most once, however often, in whatever company and from
/// however many callers at a time it is sent. An event is [`Outcome::Applied`] once every key
/// has it and at least one took it now, [`Outcome::Duplicate`] if every key had it before.
/// Sending the same events again after any failure is safe and finishes what was begun.
///
/// # Ordering, Atomicity, Errors
///
/// As for [`Store`]. Keys of one event are exact each by itself, not atomic together.
///
/// # Cancel safety
///
/// Dropping the future may leave any part of the batch applied; sending it again is safe.
pub trait ExactlyOnce<M: Monoid>: Store<M> {
    /// Where the store keeps what does not fit a row.
    type Markers: Send + Sync + 'static;

    /// Makes the store's rows belong to `binding`, or sees that they do: called before the first
    /// `apply` under it. A stream named for the first time is added to what is kept.
    ///
    /// # Errors
    ///
    /// [`StoreError::OtherOwner`] if they belong to something [else](Binding::admits);
    /// [`StoreError::Setup`] if `markers` cannot serve this store. Nothing is written then.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: call it again.
    fn bind(
        &self,
        binding: &Binding,
        markers: &Self::Markers,
        deadline: Deadline,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Sees that the store's rows belong to `binding`, as [`bind`](Self::bind) does, and writes
    /// nothing: for callers that only compare, or mend what a pipeline has written. Answers the
    /// stream that they belong to, if one was ever named.
    ///
    /// # Errors
    ///
    /// As `bind`; and [`StoreError::Setup`] if they were never bound.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    fn check_binding(
        &self,
        binding: &Binding,
        markers: &Self::Markers,
        deadline: Deadline,
    ) -> impl Future<Output = Result<Option<Arc<str>>, StoreError>> + Send;

    /// Applies each event to each of its keys at most once.
    fn apply(
        &self,
        pipeline: &PipelineName,
        markers: &Self::Markers,
        events: &[Once<M::Value>],
        deadline: Deadline,
    ) -> impl Future<Output = Vec<Outcome>> + Send;
}

/// A store that knows what each source item contributes: scan and stream may overlap.
///
/// # Contract
///
/// With ∅ for "never seen", S(c) for "contributes c, seen by a scan" and T(s, c) for
/// "contributes c, seen in the stream at s", an entry with contribution n does this:
///
/// | known | at `Scan` | at `Stream(s)` |
/// |---|---|---|
/// | ∅ | S(n), +n | T(s, n), +n |
/// | S(c) | unchanged | T(s, n), n − c |
/// | T(s′, c), s > s′ | unchanged | T(s, n), n − c |
/// | T(s′, c), s ≤ s′ | unchanged | unchanged |
///
/// "Unchanged" is answered [`Outcome::Duplicate`] where the same position or another scan was
/// there before, else [`Outcome::Superseded`]. At all times a row's value is the sum of the
/// contributions that name its key, kept ones included.
///
/// Where the table says "T(s, n)", what the entry [keeps](Replace::keep) is added too, and goes on
/// contributing whatever becomes of the item.
///
/// What an item contributed to a row whose `ttl` has passed stays there: the row may be gone, and
/// must not come back below nothing.
///
/// # What settles
///
/// An item leaves the ledger by a change with [`settles`](ItemChange::settles) that its known position
/// does not have yet. G(p) stands for "settled at p": the rows hold what the item was at p, what that
/// is has been forgotten, and changes after p count by their event id, as in [`ExactlyOnce`].
///
/// | known | entry at s | what is done |
/// |---|---|---|
/// | ∅, S(c), T(s′, c) with s > s′, where c = [`before`](ItemChange::before) | settles | G(just below s), and no row changes; then as on G |
/// | the same, where c ≠ `before` | settles | G(s), n − c |
/// | G(p), s ≤ p | | unchanged |
/// | G(p), s > p | with a [`change`](Replace::change) | `now` and `keep` less `before`, once per key and event id |
/// | G(p), s > p | without | [`StoreError::Setup`]: nothing tells what it was before |
/// | G(p) | at `Scan` | unchanged |
///
/// A settled item is never forgotten, and never mended. Its changes count each by itself, so that one
/// which fails holds up nothing. Where a change of it fails by the record's own fault for a reason that
/// lies not in the entry alone (a sum out of range), that is answered as a [`StoreError::Setup`]: it must
/// not be passed over, because the item's next change takes back what this one should have added. What
/// comes too late ([`TooOld`](StoreError::TooOld), [`RowEnds`](StoreError::RowEnds)) is answered as such,
/// and is lost for good if it is passed over; so no item is marked by an entry that may soon be too old.
///
/// # What is forgotten
///
/// A store may forget an item (∅ again) from 48 hours after its last write on, when it contributes
/// nothing, kept or not, or only to rows whose `ttl` has passed. No older version of it may come
/// after that. So a store that forgets refuses, as [`StoreError::TooOld`], an entry from the stream
/// that meets ∅ and was [created](Replace::created) more than [`EVENT_LIFE`] ago; and whoever scans
/// a table or looks items up must write what it found within an hour, or not at all.
///
/// # Atomicity
///
/// An item's contribution and all rows it changes are changed together or not at all.
///
/// # Errors
///
/// As for [`ExactlyOnce`]; in addition, an entry with more than [`MAX_KEYS`] keys, kept ones
/// included, fails with [`StoreError::InvalidValue`], and what holds up later entries of a key
/// holds up those of the same item: one that came before an entry that [keeps](Replace::keep)
/// something would make that entry an older one, which keeps nothing.
///
/// # Cancel safety
///
/// As for [`ExactlyOnce`].
pub trait Ledger<M: Group>: ExactlyOnce<M> {
    /// Makes each item contribute what its entry says.
    fn replace(
        &self,
        pipeline: &PipelineName,
        markers: &Self::Markers,
        items: &[Replace<M::Value>],
        deadline: Deadline,
    ) -> impl Future<Output = Vec<Outcome>> + Send;

    /// What is known of each of `items`, in their order: `None` for ∅.
    ///
    /// # Errors
    ///
    /// The first failure; there is no partial answer.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: reading changes nothing.
    fn known(
        &self,
        pipeline: &PipelineName,
        markers: &Self::Markers,
        items: &[ItemId],
        deadline: Deadline,
    ) -> impl Future<Output = Result<Vec<Option<Known<M::Value>>>, StoreError>> + Send;

    /// A part of the items that are known in `segment`, as [`Read::list`] lists rows. A listing goes
    /// on with the same number of segments that it began with.
    ///
    /// # Errors
    ///
    /// As for [`Read::list`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: reading changes nothing.
    fn list_known(
        &self,
        pipeline: &PipelineName,
        markers: &Self::Markers,
        segment: ListSegment,
        after: Option<&str>,
    ) -> impl Future<Output = Result<Listed<Known<M::Value>>, StoreError>> + Send;

    /// Lets items settle from now on: says so beside the rows of `binding`, for good. Processes that
    /// ask hear of it; it is a hint, and every entry is right whether or not its process has heard.
    ///
    /// # Errors
    ///
    /// As for [`check_binding`](ExactlyOnce::check_binding).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: call it again.
    fn settle(
        &self,
        binding: &Binding,
        markers: &Self::Markers,
        deadline: Deadline,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Whether [`settle`](Ledger::settle) was said.
    ///
    /// # Errors
    ///
    /// The store's; none if nothing was ever bound.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    fn is_settling(
        &self,
        pipeline: &PipelineName,
        markers: &Self::Markers,
        deadline: Deadline,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Makes each item contribute what it was found to contribute, where it was seen staying
    /// what it was (∅ becomes S(now)), and what is kept staying kept; [`Outcome::Superseded`],
    /// and no change, if the ledger knows another version than [`over`](Mend::over), or if the item
    /// has settled.
    ///
    /// Right whatever live is doing meanwhile, if the item was looked up, consistently, *after*
    /// that version was read: what changed the item later comes from the stream and replaces what
    /// is written here.
    ///
    /// # Errors, Cancel safety
    ///
    /// As for [`replace`](Ledger::replace).
    fn mend(
        &self,
        pipeline: &PipelineName,
        markers: &Self::Markers,
        items: &[Mend<M::Value>],
        deadline: Deadline,
    ) -> impl Future<Output = Vec<Outcome>> + Send;
}

/// The most keys that one item of a ledger may contribute to. An item that moves from as many to
/// as many others still fits one transaction of 100 actions, its ledger row included (Amazon
/// DynamoDB API Reference, TransactWriteItems).
pub const MAX_KEYS: usize = 49;

#[deny(clippy::missing_trait_methods)]
impl<V, R: Read<V>> Read<V> for Arc<R> {
    fn place(&self) -> Place {
        R::place(self)
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<V>>, StoreError> {
        R::get_many(self, keys).await
    }

    async fn list(&self, after: Option<&str>) -> Result<Listed<StateRow<V>>, StoreError> {
        R::list(self, after).await
    }
}

#[deny(clippy::missing_trait_methods)]
impl<M: Monoid, S: Store<M>> Store<M> for Arc<S> {
    async fn merge(&self, adds: &[Add<M::Value>], deadline: Deadline) -> Vec<Outcome> {
        S::merge(self, adds, deadline).await
    }
}

#[deny(clippy::missing_trait_methods)]
impl<M: Monoid, S: ExactlyOnce<M>> ExactlyOnce<M> for Arc<S> {
    type Markers = S::Markers;

    async fn bind(
        &self,
        binding: &Binding,
        markers: &Self::Markers,
        deadline: Deadline,
    ) -> Result<(), StoreError> {
        S::bind(self, binding, markers, deadline).await
    }

    async fn check_binding(
        &self,
        binding: &Binding,
        markers: &Self::Markers,
        deadline: Deadline,
    ) -> Result<Option<Arc<str>>, StoreError> {
        S::check_binding(self, binding, markers, deadline).await
    }

    async fn apply(
        &self,
        pipeline: &PipelineName,
        markers: &Self::Markers,
        events: &[Once<M::Value>],
        deadline: Deadline,
    ) -> Vec<Outcome> {
        S::apply(self, pipeline, markers, events, deadline).await
    }
}

#[deny(clippy::missing_trait_methods)]
impl<M: Group, S: Ledger<M>> Ledger<M> for Arc<S> {
    async fn replace(
        &self,
        pipeline: &PipelineName,
        markers: &Self::Markers,
        items: &[Replace<M::Value>],
        deadline: Deadline,
    ) -> Vec<Outcome> {
        S::replace(self, pipeline, markers, items, deadline).await
    }

    async fn known(
        &self,
        pipeline: &PipelineName,
        markers: &Self::Markers,
        items: &[ItemId],
        deadline: Deadline,
    ) -> Result<Vec<Option<Known<M::Value>>>, StoreError> {
        S::known(self, pipeline, markers, items, deadline).await
    }

    async fn list_known(
        &self,
        pipeline: &PipelineName,
        markers: &Self::Markers,
        segment: ListSegment,
        after: Option<&str>,
    ) -> Result<Listed<Known<M::Value>>, StoreError> {
        S::list_known(self, pipeline, markers, segment, after).await
    }

    async fn settle(
        &self,
        binding: &Binding,
        markers: &Self::Markers,
        deadline: Deadline,
    ) -> Result<(), StoreError> {
        S::settle(self, binding, markers, deadline).await
    }

    async fn is_settling(
        &self,
        pipeline: &PipelineName,
        markers: &Self::Markers,
        deadline: Deadline,
    ) -> Result<bool, StoreError> {
        S::is_settling(self, pipeline, markers, deadline).await
    }

    async fn mend(
        &self,
        pipeline: &PipelineName,
        markers: &Self::Markers,
        items: &[Mend<M::Value>],
        deadline: Deadline,
    ) -> Vec<Outcome> {
        S::mend(self, pipeline, markers, items, deadline).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Place;

    #[test]
    fn a_part_that_must_come_again_is_worse_than_one_that_never_counts() {
        let place = || Place::table("test", "t");
        let never = Outcome::Failed(StoreError::Overflow { place: place() });
        let again = Outcome::Failed(StoreError::DeadlinePassed { place: place() });
        let order = [
            Outcome::Duplicate,
            Outcome::Applied,
            never,
            Outcome::Blocked,
            again,
        ];
        for (n, better) in order.iter().enumerate() {
            for worse in &order[n..] {
                let (mut one, mut other) = (better.clone(), worse.clone());
                one.worsen(worse);
                other.worsen(better);
                assert_eq!(one.rank(), worse.rank());
                assert_eq!(other.rank(), worse.rank());
            }
        }
    }
}
