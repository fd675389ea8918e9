//! From decoded images to what each record adds, and on to delivery.

use std::sync::Arc;

use futures::future::BoxFuture;
use murmur_state::{
    Add, HORIZON, Key, MAX_KEYS, Monoid, OptionError, Origin, Outcome, Overflow, PipelineName,
    Place, Read, Recorder, Repeats, StoreError, Timestamp,
};
use smallvec::SmallVec;

use crate::audit::{
    self, AuditError, AuditOptions, Audited, Inspection, InspectionOptions, LedgerStatus,
    RecountInspection,
};
use crate::batch::{Addition, Additions, Batch, Rows, Share};
use crate::decode::Side;
use crate::delivery::{Context, Delivery};
use crate::record::{EventName, Record};
use crate::window::Window;

pub(crate) type KeysFn<T> = dyn Fn(&T, &mut dyn FnMut(&str)) + Send + Sync;
pub(crate) type ValueFn<T, I> = dyn Fn(&T) -> I + Send + Sync;
pub(crate) type ExpiryFn<T> = dyn Fn(&T) -> Option<Timestamp> + Send + Sync;
pub(crate) type InvertFn<M> =
    fn(&M, &<M as Monoid>::Value) -> Result<<M as Monoid>::Value, Overflow>;

/// Where an event's time comes from.
pub(crate) enum Time<T> {
    Item(Box<dyn Fn(&T) -> Timestamp + Send + Sync>),
    Arrival,
}

/// A pipeline's definition, without store and mode.
pub(crate) struct Plan<T, M: Monoid> {
    pub(crate) keys: Box<KeysFn<T>>,
    pub(crate) value: Box<ValueFn<T, M::Input>>,
    pub(crate) monoid: M,
    pub(crate) window: Option<(Window, Time<T>)>,
    /// How to take an old image back; `None` without retraction.
    pub(crate) invert: Option<InvertFn<M>>,
    /// Whether it was said that every change adds and nothing is taken back.
    pub(crate) every_change: bool,
    /// Whether removals by Time to Live change nothing.
    pub(crate) keeps_expired: bool,
    /// Whether items of its ledger may settle.
    pub(crate) settles: bool,
    /// When Time to Live may remove an item, if ever: it did whatever removes it from then on.
    pub(crate) expires_at: Option<Box<ExpiryFn<T>>>,
}

/// One record as a pipeline sees it: decoded, valid, and the only one of its event id.
pub(crate) struct Entry<'a, T> {
    /// Where its record stands in the batch.
    pub(crate) place: usize,
    pub(crate) record: &'a Record,
    pub(crate) new: Option<T>,
    pub(crate) old: Option<T>,
}

impl<T> Entry<'_, T> {
    pub(crate) fn image(&mut self, side: Side) -> &mut Option<T> {
        match side {
            Side::New => &mut self.new,
            Side::Old => &mut self.old,
        }
    }
}

/// What became of one record in one pipeline. Small, because there is one per record.
#[derive(Debug)]
pub(crate) enum Verdict {
    Applied,
    Duplicate,
    Superseded,
    /// It adds nothing.
    Skipped,
    /// Time to Live removed its item, which goes on counting.
    Kept,
    /// All it would add lies in windows whose retention is over.
    Expired,
    Blocked,
    Failed(Box<StoreError>),
}

impl From<Outcome> for Verdict {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Applied => Self::Applied,
            Outcome::Duplicate => Self::Duplicate,
            Outcome::Superseded => Self::Superseded,
            Outcome::Blocked => Self::Blocked,
            Outcome::Failed(error) => Self::Failed(Box::new(error)),
        }
    }
}

/// How many records of a batch have each verdict, so that each counter is moved once.
#[derive(Default)]
pub(crate) struct Tally {
    applied: u64,
    duplicate: u64,
    superseded: u64,
    skipped: u64,
    kept: u64,
    blocked: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Applied => self.applied += 1,
            Verdict::Duplicate => self.duplicate += 1,
            Verdict::Superseded => self.superseded += 1,
            Verdict::Skipped => self.skipped += 1,
            Verdict::Kept => self.kept += 1,
            Verdict::Blocked => self.blocked += 1,
            // Counted image by image where they are dropped, and where they are handed over.
            Verdict::Expired | Verdict::Failed(_) => {}
        }
    }

    pub(crate) fn record(self, pipeline: &PipelineName, recorder: &dyn Recorder) {
        let Self {
            applied,
            duplicate,
            superseded,
            skipped,
            kept,
            blocked,
        } = self;
        for (suffix, by) in [
            ("", applied),
            (":dedup_skip", duplicate),
            (":superseded", superseded),
            (":skip", skipped),
            (":ttl_kept", kept),
            (":blocked", blocked),
        ] {
            if by > 0 {
                recorder.count(&format!("{pipeline}{suffix}"), by);
            }
        }
    }
}

/// A record that can never count in a pipeline, and that the callback took.
pub(crate) struct PassedOver<'a, T> {
    pub(crate) entry: &'a Entry<'a, T>,
    /// Whether that lies in its images alone, so that it is the same wherever they are seen; a sum
    /// that would leave its range depends on others.
    pub(crate) by_its_images: bool,
}

/// What a record adds, and how many of its additions came too late.
struct Contribution<V> {
    adds: Additions<V>,
    late: u64,
    /// Whether any image named a key at all.
    named: bool,
}

impl<T, M: Monoid> Plan<T, M> {
    pub(crate) fn validate(&self, ledger: bool) -> Result<(), OptionError> {
        if self.every_change && (self.invert.is_some() || ledger) {
            return Err(OptionError::new(
                "every_change",
                match ledger {
                    true => {
                        "in a ledger totals follow the table, so that an item counts with what it is \
                         now; leave it out, or end the definition by another mode"
                    }
                    false => {
                        "old images are taken back by `retract`, or every change counts; say one of \
                         the two"
                    }
                },
            ));
        }
        if self.keeps_expired && self.invert.is_none() && !ledger {
            return Err(OptionError::new(
                "keep_expired_items",
                "removals change nothing in this pipeline, whoever makes them; leave it out, or \
                 take removals back by `retract` or a ledger",
            ));
        }
        if self.expires_at.is_some() && !self.keeps_expired {
            return Err(OptionError::new(
                "expires_at",
                "it tells removals by Time to Live from others, which makes no difference here; \
                 add `keep_expired_items`, or leave it out",
            ));
        }
        if self.settles && !ledger {
            return Err(OptionError::new(
                "settle",
                "only items of a ledger settle, and this pipeline keeps none; leave it out, or end \
                 the definition by `ledger`",
            ));
        }
        if !(ledger || M::IDEMPOTENT || self.every_change || self.invert.is_some()) {
            return Err(OptionError::new(
                "retract",
                "what a modified item counts for has to be said: `.retract()` takes back what its old \
                 image had added (of a stream with old images), `.every_change()` counts it again with \
                 every change",
            ));
        }
        let Some((window, time)) = &self.window else {
            return Ok(());
        };
        window.validate()?;
        if matches!(time, Time::Arrival) && (self.invert.is_some() || ledger) {
            return Err(OptionError::new(
                "window_by_arrival",
                "an old image does not know when it arrived, so it cannot be taken back; \
                 use `window` with a time from the item",
            ));
        }
        Ok(())
    }

    /// Whether `record` tells that its item, last `old`, was removed by Time to Live and goes on
    /// counting.
    fn keeps(&self, record: &Record, old: Option<&T>, now: Timestamp) -> bool {
        let has_expired = || {
            let expires_at = self.expires_at.as_ref()?(old?)?;
            let removed_at = record.created_by(now).unwrap_or(now);
            Some(record.is(&EventName::Remove) && expires_at <= removed_at)
        };
        self.keeps_expired && (record.is_removal_by_ttl() || has_expired() == Some(true))
    }

    /// Whether nothing counts in the row of `key` any more: its window's retention is over.
    pub(crate) fn is_past(&self, key: &Key, now: Timestamp) -> bool {
        let window = self.window.as_ref();
        window.is_some_and(|(window, _)| window.is_expired(key.bucket(), now))
    }

    /// Its window, and what is taken back.
    fn terms(&self) -> String {
        let window = match &self.window {
            None => "no window".to_owned(),
            Some((window, _)) => window.to_string(),
        };
        let [retracts, keeps, expires] = [
            (self.invert.is_some(), ", retracting"),
            (self.keeps_expired, ", keeping what has expired"),
            (self.expires_at.is_some(), " by the item's own time"),
        ]
        .map(|(is, text)| if is { text } else { "" });
        format!("{window}{retracts}{keeps}{expires}")
    }

    /// What of it decides what its rows hold, as far as it can be put into words.
    pub(crate) fn definition(&self) -> String {
        let mut definition = self.terms();
        if matches!(self.window, Some((_, Time::Arrival))) {
            definition.push_str(", by arrival");
        }
        if !M::NAME.is_empty() {
            definition.push_str(", ");
            definition.push_str(M::NAME);
        }
        definition
    }

    /// What a row of the table contributes at `now`, by key: what its change would if it came now.
    pub(crate) fn of_row(
        &self,
        record: &Record,
        row: &T,
        now: Timestamp,
    ) -> Result<Vec<Add<M::Value>>, Box<StoreError>> {
        let mut rows = Rows::with_capacity(1);
        let Contribution { adds, .. } =
            self.contribution(record, (None, Some(row)), now, &mut rows)?;
        let mut adds: Vec<_> = adds.iter().map(|add| rows.add(add)).collect();
        adds.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        Ok(adds)
    }

    /// All that a record with these images adds, one entry per key.
    fn contribution(
        &self,
        record: &Record,
        (old, new): (Option<&T>, Option<&T>),
        now: Timestamp,
        rows: &mut Rows,
    ) -> Result<Contribution<M::Value>, Box<StoreError>> {
        let mut contribution = Contribution {
            adds: Additions::new(),
            late: 0,
            named: false,
        };
        if let (Some(old), Some(invert)) = (old, self.invert) {
            self.image(record, old, Some(invert), now, rows, &mut contribution)?;
        }
        let from_old = contribution.adds.len();
        if let Some(new) = new {
            self.image(record, new, None, now, rows, &mut contribution)?;
            // What the old image took away the new one may have put back: nothing to write then.
            if from_old > 0 {
                let identity = self.monoid.identity();
                let mut position = 0;
                contribution.adds.retain(|add| {
                    position += 1;
                    position > from_old || add.value != identity
                });
            }
        }
        Ok(contribution)
    }

    fn image(
        &self,
        record: &Record,
        image: &T,
        invert: Option<InvertFn<M>>,
        now: Timestamp,
        rows: &mut Rows,
        into: &mut Contribution<M::Value>,
    ) -> Result<(), Box<StoreError>> {
        let (bucket, ttl) = match &self.window {
            None => (0, None),
            Some((window, time)) => {
                let at = match time {
                    Time::Item(at) => at(image),
                    Time::Arrival => arrival(record, now)?,
                };
                let bucket = window.bucket(at);
                if window.is_expired(bucket, judged(record, now)) {
                    into.late += 1;
                    into.named = true;
                    return Ok(());
                }
                (bucket, window.ttl(bucket))
            }
        };

        let mut named: SmallVec<[usize; 4]> = SmallVec::new();
        let mut unusable = None;
        (self.keys)(image, &mut |entity| match rows.place(entity, bucket, ttl) {
            Ok(row) if named.contains(&row) => {}
            Ok(row) => named.push(row),
            Err(error) => unusable = Some(error),
        });
        if let Some(error) = unusable {
            return Err(Box::new(StoreError::InvalidId(error)));
        }
        let Some((last, others)) = named.split_last() else {
            return Ok(());
        };
        into.named = true;

        let origin = Origin {
            id: record.event_id(),
            sequence: record.sequence_number(),
        };
        let mut value = self.monoid.lift_from((self.value)(image), origin);
        if let Some(invert) = invert {
            value = invert(&self.monoid, &value).map_err(|Overflow| overflow(None))?;
        }
        for row in others {
            self.add(*row, value.clone(), rows, &mut into.adds)?;
        }
        self.add(*last, value, rows, &mut into.adds)
    }

    fn add(
        &self,
        row: usize,
        value: M::Value,
        rows: &Rows,
        adds: &mut Additions<M::Value>,
    ) -> Result<(), Box<StoreError>> {
        match adds.iter_mut().find(|add| add.row == row) {
            Some(add) => self
                .monoid
                .combine(&mut add.value, &value)
                .map_err(|Overflow| overflow(Some(rows.key(row)))),
            None => {
                adds.push(Addition { row, value });
                Ok(())
            }
        }
    }
}

/// The time at which a window must not be over for `record` to count in it: the change's own, so
/// that every delivery, on every clock, decides alike, and an addition that was dropped is never
/// taken back. Where the row may be gone already, the clock decides after all.
fn judged(record: &Record, now: Timestamp) -> Timestamp {
    match record.created_by(now) {
        Some(created) => created.max(now.minus(HORIZON)),
        None => now,
    }
}

/// Where an error happened that no table has a part in.
pub(crate) fn the_record() -> Place {
    Place::table("the record itself", "-")
}

fn overflow(key: Option<&Key>) -> Box<StoreError> {
    let place = the_record();
    Box::new(StoreError::Overflow {
        place: key.map_or(place.clone(), |key| place.at(key)),
    })
}

/// The time of `record` that a window by arrival goes by: the change's own, whatever the clock says.
fn arrival(record: &Record, now: Timestamp) -> Result<Timestamp, Box<StoreError>> {
    let place = the_record();
    match (record.created(), record.created_by(now)) {
        (_, Some(created)) => Ok(created),
        // As likely the clock is slow: not the record's fault, and over once the clock is there.
        (Some(created), None) => Err(Box::new(StoreError::Setup {
            place,
            advice: format!(
                "the window goes by its creation time, {} s after 1970, which is more than 45 min \
                 ahead of this machine's clock, {} s: set the clock right",
                created.as_secs(),
                now.as_secs()
            ),
            source: None,
        })),
        (None, None) => Err(Box::new(StoreError::InvalidValue {
            place,
            reason:
                "it has no creation time, or an impossible one, and the pipeline's window goes \
                     by it"
                    .into(),
            source: None,
        })),
    }
}

/// A pipeline with its monoid and store erased: one boxed future per batch.
pub(crate) trait Run<T>: Send + Sync {
    fn name(&self) -> &PipelineName;
    fn needs_old_image(&self) -> bool;
    /// Whether it needs the old image of an item that Time to Live removed.
    fn needs_old_image_of_expired(&self) -> bool;
    /// Whether it needs the old image of an item that is removed, whatever else it needs.
    fn needs_old_image_of_removed(&self) -> bool;
    fn windows_by_arrival(&self) -> bool;
    fn repeats(&self) -> Repeats;
    fn keeps_ledger(&self) -> bool;
    fn keeps_expired(&self) -> bool;
    /// What of the definition can be put into words.
    fn fingerprint(&self) -> String;
    /// Where its values are.
    fn place(&self) -> Place;
    fn bind<'a>(
        &'a self,
        stream: Option<&'a str>,
        context: Context<'a>,
    ) -> BoxFuture<'a, Result<(), StoreError>>;
    fn check_binding<'a>(
        &'a self,
        context: Context<'a>,
    ) -> BoxFuture<'a, Result<Option<Arc<str>>, StoreError>>;
    /// One verdict per entry.
    fn run<'a>(
        &'a self,
        entries: &'a [Entry<'a, T>],
        context: Context<'a>,
    ) -> BoxFuture<'a, Vec<Verdict>>;
    /// Has a ledger note that the items of these changes contribute nothing, whatever they say:
    /// one verdict per entry.
    fn pass_over<'a>(
        &'a self,
        entries: &'a [PassedOver<'a, T>],
        context: Context<'a>,
    ) -> BoxFuture<'a, Vec<Verdict>>;
    /// Whether the definition lets items of a ledger settle.
    fn settles(&self) -> bool;
    /// Lets items settle from now on.
    fn settle<'a>(&'a self, context: Context<'a>) -> BoxFuture<'a, Result<(), StoreError>>;
    /// Whether items settle.
    fn is_settling<'a>(&'a self, context: Context<'a>) -> BoxFuture<'a, Result<bool, StoreError>>;
    /// What finds out whether the state is what the table says.
    fn inspection<'a>(
        &'a self,
        options: InspectionOptions,
        context: Context<'a>,
    ) -> Inspection<'a, T>;
    /// What counts the table once more, with a ledger or without.
    fn recount<'a>(
        &'a self,
        options: InspectionOptions,
        context: Context<'a>,
    ) -> RecountInspection<'a, T>;
    /// How many items of its ledger have settled; `None` if it keeps none.
    fn ledger_status<'a>(
        &'a self,
        settling: bool,
        options: &'a AuditOptions,
        context: Context<'a>,
    ) -> BoxFuture<'a, Result<Option<LedgerStatus>, AuditError>>;
    /// Whether the state is what the ledger says.
    fn audit<'a>(
        &'a self,
        options: &'a AuditOptions,
        context: Context<'a>,
    ) -> BoxFuture<'a, Result<Audited, AuditError>>;
}

pub(crate) struct Running<T, M: Monoid, D> {
    pub(crate) name: PipelineName,
    pub(crate) version: u32,
    pub(crate) plan: Plan<T, M>,
    pub(crate) delivery: D,
}

impl<T: Send + Sync + 'static, M: Monoid, D: Delivery<M>> Running<T, M, D> {
    /// What is known without asking the store, and what must be delivered, each share with its
    /// place in the batch.
    fn prepare<'a>(
        &self,
        entries: &'a [Entry<'a, T>],
        context: &Context<'_>,
    ) -> (Vec<Verdict>, Vec<usize>, Batch<'a, M::Value>) {
        let now = context.retry.clock().now();
        let mut rows = Rows::with_capacity(entries.len());
        let mut verdicts = Vec::with_capacity(entries.len());
        let mut places = Vec::with_capacity(entries.len());
        let mut shares = Vec::with_capacity(entries.len());
        let mut expired = 0;
        for (place, entry) in entries.iter().enumerate() {
            let Entry {
                record, new, old, ..
            } = entry;
            if self.plan.keeps(record, old.as_ref(), now) {
                tracing::debug!(
                    pipeline = self.name.as_str(),
                    event_id = record.event_id(),
                    "removed by Time to Live: the item goes on counting",
                );
                verdicts.push(match D::LEDGER {
                    false => Verdict::Kept,
                    // What the ledger knows may be of an item that was put since, so that what
                    // goes on counting is what the old image says.
                    true => {
                        let images = (None, old.as_ref());
                        match self.plan.contribution(record, images, now, &mut rows) {
                            Err(error) => Verdict::Failed(error),
                            Ok(Contribution { adds, late, .. }) => {
                                expired += late;
                                places.push(place);
                                shares.push(Share {
                                    keep: adds,
                                    before: self.before(entry, now, &mut rows),
                                    ..Share::nothing(record)
                                });
                                Verdict::Kept
                            }
                        }
                    }
                });
                continue;
            }
            // The new side of a removal counts for nothing where old images are taken back.
            let gone = record.is(&EventName::Remove) && (self.needs_old_image() || D::LEDGER);
            let images = (old.as_ref(), new.as_ref().filter(|_| !gone));
            let contribution = self.plan.contribution(record, images, now, &mut rows);
            verdicts.push(match contribution {
                Err(error) => Verdict::Failed(error),
                Ok(Contribution { adds, late, named }) => {
                    expired += late;
                    // In a ledger, that a change leaves nothing is something to remember. A
                    // scanned row that adds nothing is not: it changes nothing, whatever is
                    // known of its item.
                    let noted = D::LEDGER && matches!(record, Record::Changed(_));
                    let silent = adds.is_empty() && !noted;
                    if !silent {
                        places.push(place);
                        shares.push(Share {
                            adds,
                            before: self.before(entry, now, &mut rows),
                            ..Share::nothing(record)
                        });
                    }
                    match (named, late) {
                        (false, _) => Verdict::Skipped,
                        (true, 1..) if silent => Verdict::Expired,
                        (true, _) => Verdict::Applied,
                    }
                }
            });
        }
        context.count(&self.name, ":expired", expired);
        (verdicts, places, Batch { rows, shares })
    }

    /// What the item of `entry` contributed before, where items settle and the record tells: the same
    /// function of its old image as its contribution was when that was new. So what is refused as a new
    /// image contributes nothing as an old one.
    fn before(
        &self,
        entry: &Entry<'_, T>,
        now: Timestamp,
        rows: &mut Rows,
    ) -> Option<Additions<M::Value>> {
        let Entry { record, old, .. } = entry;
        if !self.plan.settles || !record.tells_what_was_before() {
            return None;
        }
        let images = (None, old.as_ref());
        let contribution = self.plan.contribution(record, images, now, rows);
        let adds = contribution.map_or_else(|_| Additions::new(), |found| found.adds);
        // An item of more keys is refused.
        Some(match adds.len() {
            ..=MAX_KEYS => adds,
            _ => Additions::new(),
        })
    }
}

impl<T: Send + Sync + 'static, M: Monoid, D: Delivery<M>> Run<T> for Running<T, M, D> {
    fn name(&self) -> &PipelineName {
        &self.name
    }

    fn needs_old_image(&self) -> bool {
        self.plan.invert.is_some()
    }

    fn needs_old_image_of_expired(&self) -> bool {
        match D::LEDGER {
            true => self.plan.keeps_expired,
            false => self.needs_old_image() && !self.plan.keeps_expired,
        }
    }

    fn needs_old_image_of_removed(&self) -> bool {
        self.plan.expires_at.is_some()
    }

    fn windows_by_arrival(&self) -> bool {
        matches!(self.plan.window, Some((_, Time::Arrival)))
    }

    fn repeats(&self) -> Repeats {
        if M::IDEMPOTENT {
            Repeats::ItemOnce
        } else {
            D::REPEATS
        }
    }

    fn keeps_ledger(&self) -> bool {
        D::LEDGER
    }

    fn keeps_expired(&self) -> bool {
        self.plan.keeps_expired
    }

    fn fingerprint(&self) -> String {
        let Self {
            name,
            version,
            plan,
            ..
        } = self;
        let (mode, terms, place) = (D::MODE, plan.terms(), self.place());
        format!("{name}, version {version}, {mode}, {terms}, in {place}")
    }

    fn place(&self) -> Place {
        self.delivery.state().place()
    }

    fn bind<'a>(
        &'a self,
        stream: Option<&'a str>,
        context: Context<'a>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.delivery.bind(&self.name, stream, &context).await })
    }

    fn check_binding<'a>(
        &'a self,
        context: Context<'a>,
    ) -> BoxFuture<'a, Result<Option<Arc<str>>, StoreError>> {
        Box::pin(async move { self.delivery.check_binding(&self.name, &context).await })
    }

    fn pass_over<'a>(
        &'a self,
        entries: &'a [PassedOver<'a, T>],
        context: Context<'a>,
    ) -> BoxFuture<'a, Vec<Verdict>> {
        Box::pin(async move {
            let now = context.retry.clock().now();
            let mut rows = Rows::with_capacity(entries.len());
            let nothing = |passed: &PassedOver<'a, T>| Share {
                // Its next change will take back what this one says, so that an item that is over a sum's
                // range must not settle by it.
                before: match passed.by_its_images {
                    true => self.before(passed.entry, now, &mut rows),
                    false => None,
                },
                ..Share::nothing(passed.entry.record)
            };
            let shares = entries.iter().map(nothing).collect();
            let batch = Batch { rows, shares };
            self.delivery
                .deliver(&self.name, &self.plan.monoid, batch, &context)
                .await
        })
    }

    fn settles(&self) -> bool {
        self.plan.settles
    }

    fn settle<'a>(&'a self, context: Context<'a>) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.delivery.settle(&self.name, &context).await })
    }

    fn is_settling<'a>(&'a self, context: Context<'a>) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move { self.delivery.is_settling(&self.name, &context).await })
    }

    fn run<'a>(
        &'a self,
        entries: &'a [Entry<'a, T>],
        context: Context<'a>,
    ) -> BoxFuture<'a, Vec<Verdict>> {
        let (mut verdicts, places, batch) = self.prepare(entries, &context);
        Box::pin(async move {
            if batch.shares.is_empty() {
                return verdicts;
            }
            let delivered = self
                .delivery
                .deliver(&self.name, &self.plan.monoid, batch, &context)
                .await;
            for (place, verdict) in places.into_iter().zip(delivered) {
                // Skipped stays skipped where a ledger has only noted it.
                if !matches!(verdict, Verdict::Applied) {
                    verdicts[place] = verdict;
                }
            }
            verdicts
        })
    }
    fn inspection<'a>(
        &'a self,
        options: InspectionOptions,
        context: Context<'a>,
    ) -> Inspection<'a, T> {
        let plan = (&self.name, &self.plan);
        match self.delivery.ledger() {
            Some(ledger) => Inspection::of_ledger(plan, ledger, options, context),
            None => Inspection::Recount(self.recount(options, context)),
        }
    }

    fn recount<'a>(
        &'a self,
        options: InspectionOptions,
        context: Context<'a>,
    ) -> RecountInspection<'a, T> {
        let (plan, state) = ((&self.name, &self.plan), self.delivery.state());
        RecountInspection::new(plan, (state, self.delivery.ledger()), options, context)
    }

    fn ledger_status<'a>(
        &'a self,
        settling: bool,
        options: &'a AuditOptions,
        context: Context<'a>,
    ) -> BoxFuture<'a, Result<Option<LedgerStatus>, AuditError>> {
        Box::pin(async move {
            let Some(ledger) = self.delivery.ledger() else {
                return Ok(None);
            };
            let of = (&self.name, ledger);
            let status = audit::status(of, settling, options, context).await;
            status.map(Some)
        })
    }

    fn audit<'a>(
        &'a self,
        options: &'a AuditOptions,
        context: Context<'a>,
    ) -> BoxFuture<'a, Result<Audited, AuditError>> {
        Box::pin(async move {
            let Some(ledger) = self.delivery.ledger() else {
                return Err(AuditError::NoLedger {
                    pipeline: self.name.clone(),
                });
            };
            let plan = (&self.name, &self.plan);
            audit::audit(plan, (ledger, self.delivery.state()), options, context).await
        })
    }
}
