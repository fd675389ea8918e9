//! From decoded images to what each record adds, and on to delivery.

use futures::future::BoxFuture;
use murmur_state::{
    Add, EventId, HORIZON, IdError, Key, Monoid, OptionError, Origin, Outcome, Overflow,
    PipelineName, Place, StoreError, Timestamp,
};

use crate::delivery::{Context, Delivery, Share};
use crate::pipeline::Repeats;
use crate::record::{EventName, Record};
use crate::window::Window;

pub(crate) type KeysFn<T> = dyn Fn(&T, &mut dyn FnMut(&str)) + Send + Sync;
pub(crate) type ValueFn<T, I> = dyn Fn(&T) -> I + Send + Sync;
type InvertFn<M> = fn(&M, &<M as Monoid>::Value) -> Result<<M as Monoid>::Value, Overflow>;

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
    /// Whether removals by Time to Live change nothing.
    pub(crate) keeps_expired: bool,
}

/// One record as a pipeline sees it: decoded, valid, and the only one of its event id.
pub(crate) struct Entry<'a, T> {
    pub(crate) record: &'a Record,
    pub(crate) id: &'a EventId,
    pub(crate) new: Option<&'a T>,
    pub(crate) old: Option<&'a T>,
}

/// What became of one record in one pipeline.
#[derive(Debug, Clone)]
pub(crate) enum Verdict {
    Delivered(Outcome),
    /// It adds nothing.
    Skipped,
    /// Time to Live removed its item, which goes on counting.
    Kept,
    /// All it would add lies in windows whose retention is over.
    Expired,
}

/// What a record adds, and how many of its additions came too late.
struct Contribution<V> {
    adds: Vec<Add<V>>,
    late: u64,
    /// Whether any image named a key at all.
    named: bool,
}

impl<T, M: Monoid> Plan<T, M> {
    pub(crate) fn validate(&self, ledger: bool) -> Result<(), OptionError> {
        if self.keeps_expired && self.invert.is_none() && !ledger {
            return Err(OptionError::new(
                "keep_expired_items",
                "removals change nothing in this pipeline, whoever makes them; leave it out, or \
                 take removals back by `retract` or a ledger",
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

    /// All that `entry` adds, one entry per key.
    fn contribution(
        &self,
        entry: &Entry<'_, T>,
        now: Timestamp,
    ) -> Result<Contribution<M::Value>, StoreError> {
        let mut contribution = Contribution {
            adds: Vec::new(),
            late: 0,
            named: false,
        };
        if let (Some(old), Some(invert)) = (entry.old, self.invert) {
            self.image(entry, old, Some(invert), now, &mut contribution)?;
        }
        let from_old = contribution.adds.len();
        if let Some(new) = entry.new {
            self.image(entry, new, None, now, &mut contribution)?;
        }
        // What the old image took away the new one may have put back: nothing to write then.
        let identity = self.monoid.identity();
        let mut position = 0;
        contribution.adds.retain(|add| {
            position += 1;
            position > from_old || entry.new.is_none() || add.value != identity
        });
        Ok(contribution)
    }

    fn image(
        &self,
        entry: &Entry<'_, T>,
        image: &T,
        invert: Option<InvertFn<M>>,
        now: Timestamp,
        into: &mut Contribution<M::Value>,
    ) -> Result<(), StoreError> {
        let (bucket, ttl) = match &self.window {
            None => (0, None),
            Some((window, time)) => {
                let at = match time {
                    Time::Item(at) => at(image),
                    Time::Arrival => entry.record.created().ok_or_else(no_arrival_time)?,
                };
                let bucket = window.bucket(at);
                if window.is_expired(bucket, judged(entry.record, now)) {
                    into.late += 1;
                    into.named = true;
                    return Ok(());
                }
                (bucket, window.ttl(bucket))
            }
        };

        let mut keys: Vec<Result<Key, IdError>> = Vec::with_capacity(1);
        (self.keys)(image, &mut |entity| {
            let seen =
                |key: &Result<Key, IdError>| key.as_ref().is_ok_and(|key| key.entity() == entity);
            if !keys.iter().any(seen) {
                keys.push(Key::new(entity, bucket));
            }
        });
        if keys.is_empty() {
            return Ok(());
        }
        into.named = true;

        let origin = Origin {
            id: entry.id,
            sequence: entry.record.sequence_number(),
        };
        let mut value = self.monoid.lift_from((self.value)(image), origin);
        if let Some(invert) = invert {
            value = invert(&self.monoid, &value).map_err(|Overflow| overflow(None))?;
        }
        for key in keys {
            let key = key.map_err(StoreError::InvalidId)?;
            match into.adds.iter_mut().find(|add| add.key == key) {
                Some(add) => self
                    .monoid
                    .combine(&mut add.value, &value)
                    .map_err(|Overflow| overflow(Some(&add.key)))?,
                None => into.adds.push(Add {
                    key,
                    value: value.clone(),
                    ttl,
                }),
            }
        }
        Ok(())
    }
}

/// The time at which a window must not be over for `record` to count in it: the change's own, so
/// that every delivery, on every clock, decides alike, and an addition that was dropped is never
/// taken back. Where the row may be gone already, the clock decides after all.
fn judged(record: &Record, now: Timestamp) -> Timestamp {
    match record.created() {
        Some(created) => created.max(now.minus(HORIZON)),
        None => now,
    }
}

/// Where an error happened that no table has a part in.
pub(crate) fn the_record() -> Place {
    Place::table("the record itself", "-")
}

fn overflow(key: Option<&Key>) -> StoreError {
    let place = the_record();
    StoreError::Overflow {
        place: key.map_or(place.clone(), |key| place.at(key)),
    }
}

fn no_arrival_time() -> StoreError {
    StoreError::InvalidValue {
        place: the_record(),
        reason: "it has no creation time, and the pipeline's window goes by it".into(),
        source: None,
    }
}

/// A pipeline with its monoid and store erased: one boxed future per batch.
pub(crate) trait Run<T>: Send + Sync {
    fn name(&self) -> &PipelineName;
    fn needs_old_image(&self) -> bool;
    /// Whether it needs the old image of an item that Time to Live removed.
    fn needs_old_image_of_expired(&self) -> bool;
    fn windows_by_arrival(&self) -> bool;
    fn repeats(&self) -> Repeats;
    /// One verdict per entry.
    fn run<'a>(
        &'a self,
        entries: &'a [Entry<'a, T>],
        context: Context<'a>,
    ) -> BoxFuture<'a, Vec<Verdict>>;
}

pub(crate) struct Running<T, M: Monoid, D> {
    pub(crate) name: PipelineName,
    pub(crate) plan: Plan<T, M>,
    pub(crate) delivery: D,
}

impl<T: Send + Sync + 'static, M: Monoid, D: Delivery<M>> Running<T, M, D> {
    /// What is known without asking the store, and what must be delivered, each with its place
    /// in the batch.
    fn shares<'a>(
        &self,
        entries: &[Entry<'a, T>],
        context: &Context<'_>,
    ) -> (Vec<Verdict>, Vec<usize>, Vec<Share<'a, M::Value>>) {
        let now = context.retry.clock().now();
        let mut verdicts = Vec::with_capacity(entries.len());
        let (mut places, mut shares) = (Vec::new(), Vec::new());
        for (place, entry) in entries.iter().enumerate() {
            if self.plan.keeps_expired && entry.record.is_removal_by_ttl() {
                tracing::debug!(
                    pipeline = self.name.as_str(),
                    event_id = entry.record.event_id(),
                    "removed by Time to Live: the item goes on counting",
                );
                verdicts.push(Verdict::Kept);
                continue;
            }
            // The new side of a removal counts for nothing where old images are taken back.
            let gone = entry.record.is(&EventName::Remove) && (self.needs_old_image() || D::LEDGER);
            let new = entry.new.filter(|_| !gone);
            verdicts.push(
                match self.plan.contribution(&Entry { new, ..*entry }, now) {
                    Err(error) => Verdict::Delivered(Outcome::Failed(error)),
                    Ok(Contribution { adds, late, named }) => {
                        context.count(&self.name, ":expired", late);
                        // In a ledger, adding nothing is something to remember.
                        let silent = adds.is_empty() && !D::LEDGER;
                        if !silent {
                            places.push(place);
                            shares.push(Share {
                                record: entry.record,
                                id: entry.id,
                                adds,
                            });
                        }
                        match (named, late) {
                            (false, _) => Verdict::Skipped,
                            (true, 1..) if silent => Verdict::Expired,
                            (true, _) => Verdict::Delivered(Outcome::Applied),
                        }
                    }
                },
            );
        }
        (verdicts, places, shares)
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
        self.needs_old_image() && !self.plan.keeps_expired
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

    fn run<'a>(
        &'a self,
        entries: &'a [Entry<'a, T>],
        context: Context<'a>,
    ) -> BoxFuture<'a, Vec<Verdict>> {
        let (mut verdicts, places, shares) = self.shares(entries, &context);
        Box::pin(async move {
            if shares.is_empty() {
                return verdicts;
            }
            let outcomes = self
                .delivery
                .deliver(&self.name, &self.plan.monoid, shares, &context)
                .await;
            for (place, outcome) in places.into_iter().zip(outcomes) {
                verdicts[place] = match (&verdicts[place], outcome) {
                    (Verdict::Skipped, Outcome::Applied) => Verdict::Skipped,
                    (_, outcome) => Verdict::Delivered(outcome),
                };
            }
            verdicts
        })
    }
}
