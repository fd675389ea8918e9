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

/// Kinesis keeps records for a year at the most.
const LONGEST_HORIZON: Duration = Duration::from_secs(400 * 24 * 3600);

/// The marker table: what exactly-once pipelines remember outside their rows, claims of ids that
/// expire, and checkpoints that do not.
///
/// Stores get it by their `markers`, by name or as a `Deduper` that is shared. For `exactly_once`
/// it holds pages of about 40 event ids that state rows have no room for, and a control row per
/// state table; see the crate's documentation.
///
/// A claim is one conditional put of (id, owner, expiry). A put whose answer was lost is
/// recognised by its owner when it is repeated; a row past its expiry blocks nobody, though
/// DynamoDB removes it days later; markers of the original, which name no owner, count as
/// claimed by somebody else until they expire.
///
/// It also keeps [`Checkpoints`](murmur_state::Checkpoints), as rows that never expire. Ids and
/// checkpoint names share the table: name both by
/// [`PipelineName::marker`](murmur_state::PipelineName::marker), with kinds of their own.
///
/// # What it does not promise
///
/// Claiming before merging (the claim-first mode) is not exactly-once. A process that dies between claim and merge
/// leaves an id claimed whose event is in no total, until the claim expires. A claim whose answer
/// was lost may also arrive late: after the same owner has claimed anew and released.
///
/// # Cost
///
/// One write unit per claim, duplicates included, and one per release; ids are far below 1 KB.
#[derive(Debug, Clone)]
pub struct Deduper {
    pub(crate) table: Table,
    ttl: Duration,
}

impl Deduper {
    /// How long claims are remembered unless told otherwise: 48 h, the 24 h a stream keeps its
    /// records twice over.
    pub const DEFAULT_TTL: Duration = Duration::from_secs(48 * 3600);

    /// A deduper on `table`, as [`create_dedup_table`](crate::create_dedup_table) makes it, that
    /// remembers claims for [`DEFAULT_TTL`](Self::DEFAULT_TTL). The caller keeps the client;
    /// nothing is sent until the deduper is used.
    pub fn new(client: Client, table: impl Into<Arc<str>>) -> Self {
        Self {
            table: Table::new(STORE, client, table),
            ttl: Self::DEFAULT_TTL,
        }
    }

    /// The same with options. `concurrency` is how many pages of ids are written at a time, and how many
    /// requests for 100 ledger rows or pages are under way; all else is one request each. `eventually_consistent_reads` means nothing here:
    /// what is read decides something.
    ///
    /// # Errors
    ///
    /// [`OptionError`] naming an option that cannot be used.
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

    /// How long a claim is remembered, rounded up to whole seconds. It must be longer than an
    /// event can take to come again: below 24 h a redelivered stream record may count twice.
    /// Above zero.
    ///
    /// Default [`DEFAULT_TTL`](Self::DEFAULT_TTL), 48 h. Longer costs storage only.
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

    /// How long after its creation an event may come to an exactly-once pipeline. Events older than
    /// 49/52 of it are refused as [`TooOld`](StoreError::TooOld), and pages of ids live 24/13 of it after
    /// the last creation in them. All processes of a pipeline must say the same; the state table
    /// remembers it.
    ///
    /// Default [`HORIZON`], 26 h: the 24 h a stream keeps its records, and 2 h for late deliveries.
    /// Events are refused from 24 h 30 min on, pages live for 48 h; so a clock may be 23 h slow before
    /// anything counts twice. One that is over half an hour fast refuses what comes at the end of the
    /// 24 h. Longer costs storage only. Windows with a retention gain nothing by it: their rows
    /// are removed 27 h after that.
    ///
    /// # Errors
    ///
    /// [`OptionError`] if it is shorter than that: a record could come again after its id is
    /// forgotten, and count twice. For sources that keep their records for less than a stream,
    /// see [`horizon_below_a_streams`](Self::horizon_below_a_streams).
    pub fn horizon(self, horizon: Duration) -> Result<Self, OptionError> {
        if horizon < HORIZON {
            return Err(OptionError::new(
                "horizon",
                format!(
                    "{horizon:?} is shorter than {HORIZON:?}, the time a stream's record can take \
                     to come again; use a longer one, or `horizon_below_a_streams` for a source \
                     that keeps its records for less"
                ),
            ));
        }
        self.horizon_below_a_streams(horizon)
    }

    /// The same without the lower limit, for sources that never bring an event again later than
    /// 12/13 of `horizon` after its creation (24 h of 26 h). On a stream it counts twice what
    /// comes later than that. Above one second.
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

    /// The one called `name`, by the client and options of `table`.
    pub(crate) fn beside(table: &Table, name: Arc<str>) -> Self {
        Self {
            table: table.beside(STORE, name),
            ttl: Self::DEFAULT_TTL,
        }
    }

    /// The same by `client`.
    pub(crate) fn by(mut self, client: &Client) -> Self {
        self.table.client = client.clone();
        self
    }

    /// How rows are kept whose ids these markers belong to: what all processes must agree on.
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

    /// The rows that there are of those called `names`, in no order; as they are, or as they were a
    /// moment ago, for half the read units.
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

    /// Where a row is, if its name can be one.
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

    /// The second at which a claim made at `now` is forgotten, never too early.
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
        // Refused: it is somebody else's, or gone already. Either way it is not this owner's.
        written(&place, result).map(|_| ())
    }
}

fn owned(owner: &Owner) -> AttributeValue {
    AttributeValue::S(owner.as_str().to_owned())
}
