//! Converts decoded images into the additions of each record.

use murmur_state::error::Place;
use murmur_state::monoid::{Origin, Overflow};
use murmur_state::store::{Add, HORIZON};
use murmur_state::{Key, Monoid, OptionError, StoreError, Timestamp};
use smallvec::SmallVec;

use crate::batch::{Addition, Additions, Rows};
use crate::record::{EventName, Record};
use crate::window::Window;

pub(crate) type KeysFn<T> = dyn Fn(&T, &mut dyn FnMut(&str)) + Send + Sync;
pub(crate) type ValueFn<T, I> = dyn Fn(&T) -> I + Send + Sync;
pub(crate) type ExpiryFn<T> = dyn Fn(&T) -> Option<Timestamp> + Send + Sync;
pub(crate) type InvertFn<M> =
    fn(&M, &<M as Monoid>::Value) -> Result<<M as Monoid>::Value, Overflow>;

/// The source of an event's time.
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
    /// Inverts the values of old images; `None` without retraction.
    pub(crate) invert: Option<InvertFn<M>>,
    /// Whether `every_change` was set: every change adds, and nothing is taken back.
    pub(crate) every_change: bool,
    /// Whether removals by Time to Live change nothing.
    pub(crate) keeps_expired: bool,
    /// Whether items of its ledger may settle.
    pub(crate) settles: bool,
    /// The time from which Time to Live may remove an item; every removal from then on counts as
    /// one by Time to Live.
    pub(crate) expires_at: Option<Box<ExpiryFn<T>>>,
}

/// The additions of a record, and the number of those that were too late.
pub(crate) struct Contribution<V> {
    pub(crate) adds: Additions<V>,
    pub(crate) late: u64,
    /// Whether any image named a key at all.
    pub(crate) named: bool,
}

impl<T, M: Monoid> Plan<T, M> {
    pub(crate) fn validate(&self, ledger: bool) -> Result<(), OptionError> {
        if self.every_change && (self.invert.is_some() || ledger) {
            return Err(OptionError::new(
                "every_change",
                match ledger {
                    true => {
                        "in a ledger totals follow the table: an item counts with its current \
                         value; leave it out, or end the definition by another mode"
                    }
                    false => {
                        "`retract` takes old images back, and `every_change` never does; use only one of \
                         the two"
                    }
                },
            ));
        }
        if self.keeps_expired && self.invert.is_none() && !ledger {
            return Err(OptionError::new(
                "keep_expired_items",
                "no removal changes anything in this pipeline; leave it out, or \
                 take removals back by `retract` or a ledger",
            ));
        }
        if self.expires_at.is_some() && !self.keeps_expired {
            return Err(OptionError::new(
                "expires_at",
                "it distinguishes removals by Time to Live from others, which has no effect here; \
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
                "choose how modified items count: `.retract()` takes back what the old \
                 image added (the stream must carry old images), `.every_change()` counts the item again with \
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

    /// Whether `record` reports that its item, last `old`, was removed by Time to Live and keeps
    /// counting.
    pub(crate) fn keeps(&self, record: &Record, old: Option<&T>, now: Timestamp) -> bool {
        let has_expired = || {
            let expires_at = self.expires_at.as_ref()?(old?)?;
            let removed_at = record.created_by(now).unwrap_or(now);
            Some(record.is(&EventName::Remove) && expires_at <= removed_at)
        };
        self.keeps_expired && (record.is_removal_by_ttl() || has_expired() == Some(true))
    }

    /// Whether nothing counts in the row of `key` any more, because its window's retention has
    /// ended.
    pub(crate) fn is_past(&self, key: &Key, now: Timestamp) -> bool {
        let window = self.window.as_ref();
        window.is_some_and(|(window, _)| window.is_expired(key.bucket(), now))
    }

    /// Its window and retraction as text.
    pub(crate) fn terms(&self) -> String {
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

    /// The part of the definition that decides what the rows hold, as text, as far as it can be put
    /// into words.
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

    /// The contributions of a row of the table at `now`, by key: those of its change if it came
    /// now.
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

    /// All additions of a record with these images, one entry per key.
    pub(crate) fn contribution(
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
            // The new image may have put back what the old one took away: then there is nothing to
            // write.
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

/// The time at which a window's retention must not have ended for `record` to count in it. It is
/// the change's own time, so that every delivery, on every clock, decides alike, and a dropped
/// addition is never taken back. For a change so old that the row may be gone, the clock decides.
fn judged(record: &Record, now: Timestamp) -> Timestamp {
    match record.created_by(now) {
        Some(created) => created.max(now.minus(HORIZON)),
        None => now,
    }
}

/// The place of an error that involves no table.
pub(crate) fn the_record() -> Place {
    Place::table("the record itself", "-")
}

fn overflow(key: Option<&Key>) -> Box<StoreError> {
    let place = the_record();
    Box::new(StoreError::Overflow {
        place: key.map_or(place.clone(), |key| place.at(key)),
    })
}

/// The time of `record` for a window by arrival: the change's own, independent of the clock.
fn arrival(record: &Record, now: Timestamp) -> Result<Timestamp, Box<StoreError>> {
    let place = the_record();
    match (record.created(), record.created_by(now)) {
        (_, Some(created)) => Ok(created),
        // The clock is as likely to be slow. That is not the record's fault, and ends when the
        // clock is right.
        (Some(created), None) => Err(Box::new(StoreError::Setup {
            place,
            advice: format!(
                "the window uses its creation time, {} s after 1970, which is more than 45 min \
                 ahead of this machine's clock, {} s; correct the clock",
                created.as_secs(),
                now.as_secs()
            ),
            source: None,
        })),
        (None, None) => Err(Box::new(StoreError::InvalidValue {
            place,
            reason: "it has no creation time, or an impossible one, and the pipeline's window \
                     needs one"
                .into(),
            source: None,
        })),
    }
}
