use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use murmur_state::{
    Claim, Deadline, HORIZON, IdError, Key, OptionError, Owner, Place, StoreError, Timestamp,
};

use crate::attribute::{Item, OWN, PK, TTL, number};
use crate::error::{Access, Written, store_error, written};
use crate::once::Rules;
use crate::options::TableOptions;
use crate::table::Table;

const STORE: &str = "Deduper";

/// DynamoDB's limit on a partition key value, in bytes (Amazon DynamoDB Developer Guide, quotas).
const MAX_ID_BYTES: usize = 2048;

/// Kinesis keeps records for a year at most.
const LONGEST_HORIZON: Duration = Duration::from_secs(400 * 24 * 3600);

/// The marker table. It holds:
///
/// - event ids of exactly-once pipelines that are no longer in state rows;
/// - claims of ids, which expire;
/// - checkpoints, which do not expire.
///
/// A store gets it through its `markers` method, by name or as a shared `Deduper`. For
/// `exactly_once` it holds pages of about 40 event ids that do not fit in state rows, and one
/// control row per state table; see the crate's documentation.
///
/// A claim is one conditional put of id, owner and expiry. If the answer of the put was lost, the
/// repeated put recognises its own claim by the owner. A row past its expiry no longer blocks a
/// claim, though DynamoDB removes it days later. Markers of the Go original have no owner; they
/// count as claimed by another process until they expire.
///
/// It also keeps [`Checkpoints`](murmur_state::Checkpoints), as rows that never expire. Ids and
/// checkpoint names share the table, so name both with
/// [`PipelineName::marker`](murmur_state::PipelineName::marker), each with a kind of its own.
///
/// # What it does not promise
///
/// A claim before the merge (claim-first mode) is not exactly-once:
///
/// - If a process dies between claim and merge, the id is claimed until the claim expires, and the
///   event is in no total.
/// - A claim whose answer was lost may arrive late, after the same owner has claimed again and
///   released.
///
/// # Cost
///
/// One write unit per claim, duplicates included, and one per release. Ids are far below 1 KB.
#[derive(Debug, Clone)]
pub struct Deduper {
    pub(crate) table: Table,
    ttl: Duration,
}

impl Deduper {
    /// How long a claim is remembered by default: 48 h, twice the 24 h for which a stream keeps its
    /// records.
    pub const DEFAULT_TTL: Duration = Duration::from_secs(48 * 3600);

    /// Creates a deduper on `table`, a table made by
    /// [`create_dedup_table`](crate::create_dedup_table). It remembers claims for
    /// [`DEFAULT_TTL`](Self::DEFAULT_TTL). The caller keeps the client. No request is sent until
    /// the deduper is used.
    pub fn new(client: Client, table: impl Into<Arc<str>>) -> Self {
        Self {
            table: Table::new(STORE, client, table),
            ttl: Self::DEFAULT_TTL,
        }
    }

    /// Like [`new`](Self::new), with options.
    ///
    /// `concurrency` is the number of id pages written at the same time, and the number of
    /// concurrent requests for 100 ledger rows or pages. All other operations are one request each.
    /// `eventually_consistent_reads` has no effect, because every read decides something.
    ///
    /// # Errors
    ///
    /// [`OptionError`] names an option that is not valid.
    pub fn with_options(
        client: Client,
        table: impl Into<Arc<str>>,
        options: TableOptions,
    ) -> Result<Self, OptionError> {
        let deduper = Self::new(client, table);
        Ok(Self {
            table: deduper.table.with_options(options)?,
            ..deduper
        })
    }

    /// How long a claim is remembered, rounded up to whole seconds. It must be longer than the time
    /// in which an event can be delivered again: below 24 h a redelivered stream record may count
    /// twice. Must be above zero.
    ///
    /// Default [`DEFAULT_TTL`](Self::DEFAULT_TTL), 48 h. A longer time only costs storage.
    ///
    /// # Errors
    ///
    /// [`OptionError`] if it is zero.
    pub fn ttl(mut self, ttl: Duration) -> Result<Self, OptionError> {
        if ttl.is_zero() {
            return Err(OptionError::new(
                "ttl",
                "must be above zero; 48 h suits a stream",
            ));
        }
        self.ttl = ttl;
        Ok(self)
    }

    /// How long after its creation an exactly-once pipeline may receive an event. An event older
    /// than 49/52 of the horizon is refused as [`TooOld`](StoreError::TooOld). A page of ids is
    /// kept for 24/13 of the horizon after the last creation time in it. All processes of a
    /// pipeline must use the same horizon; the state table remembers it.
    ///
    /// Default [`HORIZON`], 26 h: the 24 h for which a stream keeps its records, and 2 h for late
    /// deliveries. With it:
    ///
    /// - Events are refused from an age of 24 h 30 min, and pages are kept for 48 h.
    /// - A clock may be 23 h slow before anything counts twice.
    /// - A clock that is more than half an hour fast refuses events delivered at the end of those
    ///   24 h.
    ///
    /// A longer horizon only costs storage. Windows with a retention gain nothing from it: their
    /// rows are removed 27 h after the retention.
    ///
    /// # Errors
    ///
    /// [`OptionError`] if it is shorter than the default: a record could be delivered again after
    /// its id is forgotten, and count twice. For sources that keep their records for less time than
    /// a stream, see [`horizon_below_a_streams`](Self::horizon_below_a_streams).
    pub fn horizon(self, horizon: Duration) -> Result<Self, OptionError> {
        if horizon < HORIZON {
            return Err(OptionError::new(
                "horizon",
                format!(
                    "{horizon:?} is shorter than {HORIZON:?}, the time in which a stream's record \
                     can be delivered again; use a longer one, or `horizon_below_a_streams` for a \
                     source that keeps its records for less"
                ),
            ));
        }
        self.horizon_below_a_streams(horizon)
    }

    /// Like [`horizon`](Self::horizon), without its lower limit. It is for sources that never
    /// deliver an event again later than 12/13 of `horizon` after its creation (24 h of 26 h). On a
    /// stream, an event delivered later than that counts twice. Must be at least one second.
    ///
    /// # Errors
    ///
    /// [`OptionError`] if it is shorter than a second or longer than 400 days.
    pub fn horizon_below_a_streams(mut self, horizon: Duration) -> Result<Self, OptionError> {
        let horizons = Duration::from_secs(1)..=LONGEST_HORIZON;
        if !horizons.contains(&horizon) {
            let reason = "must be from a second to 400 days, longer than any stream keeps a record";
            return Err(OptionError::new("horizon", reason));
        }
        self.table.options.rules = Rules::of(horizon);
        Ok(self)
    }

    /// The marker table called `name`, with the client and options of `table`.
    pub(crate) fn beside(table: &Table, name: Arc<str>) -> Self {
        Self {
            table: table.beside(STORE, name),
            ttl: Self::DEFAULT_TTL,
        }
    }

    /// The same marker table, used through `client`.
    pub(crate) fn by(mut self, client: &Client) -> Self {
        self.table.client = client.clone();
        self
    }

    /// How the rows are kept whose ids these markers belong to. All processes must agree on it.
    pub(crate) fn layout(&self, kind: &str) -> String {
        format!(
            "{kind}, ids 2, horizon {:?}",
            self.table.options.rules.horizon
        )
    }

    /// The row called `name`, read consistently.
    pub(crate) async fn get(
        &self,
        name: &str,
        deadline: Deadline,
    ) -> Result<Option<Item>, StoreError> {
        let place = self.place(name)?;
        let answer = self
            .table
            .client
            .get_item()
            .table_name(&*self.table.name)
            .key(PK, AttributeValue::S(name.to_owned()))
            .consistent_read(true)
            .customize()
            .config_override(self.table.read(&place, deadline)?)
            .send()
            .await
            .map_err(|error| store_error(&place, Access::Read, error))?;
        Ok(answer.item)
    }

    /// The rows that exist among those called `names`, in no particular order. The read is strongly
    /// consistent, or eventually consistent for half the read units.
    pub(crate) async fn get_many(
        &self,
        names: &[&str],
        consistent: bool,
        deadline: Deadline,
    ) -> Result<Vec<Item>, StoreError> {
        let distinct: HashSet<&str> = names.iter().copied().collect();
        let key = |name: &str| HashMap::from([(PK.to_owned(), AttributeValue::S(name.to_owned()))]);
        let keys = distinct.into_iter().map(key);
        self.table
            .get_items(keys.collect(), consistent, deadline)
            .await
    }

    /// The place of the row called `name`, if that is a valid key.
    pub(crate) fn place(&self, name: &str) -> Result<Place, StoreError> {
        if name.is_empty() {
            return Err(StoreError::InvalidId(IdError::EmptyEventId));
        }
        Key::new(name, 0)
            .map(|key| self.table.place().at(&key))
            .map_err(|_| StoreError::InvalidValue {
                place: self.table.place(),
                reason: format!(
                    "the id has {} bytes, over DynamoDB's limit of {MAX_ID_BYTES} for a \
                     partition key; hash it",
                    name.len()
                ),
                source: None,
            })
    }

    /// The second at which a claim made at `now` expires, rounded up.
    fn expiry(&self, now: Timestamp) -> i64 {
        now.plus(self.ttl)
            .plus(Duration::from_millis(999))
            .as_secs()
    }
}

impl murmur_state::Deduper for Deduper {
    async fn claim(
        &self,
        id: &str,
        owner: &Owner,
        deadline: Deadline,
    ) -> Result<Claim, StoreError> {
        let place = self.place(id)?;
        let now = self.table.options.clock.now();
        let result = self
            .table
            .client
            .put_item()
            .table_name(&*self.table.name)
            .item(PK, AttributeValue::S(id.to_owned()))
            .item(TTL, number(self.expiry(now)))
            .item(OWN, owned(owner))
            .condition_expression("attribute_not_exists(pk) OR #ttl < :now OR own = :own")
            .expression_attribute_names("#ttl", TTL)
            .expression_attribute_values(":now", number(now.as_secs()))
            .expression_attribute_values(":own", owned(owner))
            .customize()
            .config_override(self.table.write_once(&place, deadline)?)
            .send()
            .await;
        Ok(match written(&place, result)? {
            Written::Done(_) => Claim::First,
            Written::Refused(_) => Claim::Duplicate,
        })
    }

    async fn release(&self, id: &str, owner: &Owner, deadline: Deadline) -> Result<(), StoreError> {
        let place = self.place(id)?;
        let result = self
            .table
            .client
            .delete_item()
            .table_name(&*self.table.name)
            .key(PK, AttributeValue::S(id.to_owned()))
            .condition_expression("own = :own")
            .expression_attribute_values(":own", owned(owner))
            .customize()
            .config_override(self.table.write_once(&place, deadline)?)
            .send()
            .await;
        // A refused delete means that another owner has the claim or that it is gone. Either way it
        // does not belong to this owner.
        written(&place, result).map(|_| ())
    }
}

fn owned(owner: &Owner) -> AttributeValue {
    AttributeValue::S(owner.as_str().to_owned())
}
