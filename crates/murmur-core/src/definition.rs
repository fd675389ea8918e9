//! The steps of a pipeline's definition.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use murmur_state::store::Binding;
use murmur_state::{
    Checkpoints, Deduper, ExactlyOnce, Group, IdError, Ledger, Monoid, OptionError, PipelineName,
    Store, Timestamp,
};

use crate::delivery::{AtLeastOnce, ClaimFirst, ClaimNames, Delivery, InLedger, OncePerKey, Owned};
use crate::erased::TypedPipeline;
use crate::monoids::Count;
use crate::pipeline::Pipeline;
use crate::plan::{KeysFn, Plan, Time, ValueFn};
use crate::window::Window;

impl<T: Send + Sync + 'static> Pipeline<T> {
    /// Begins the definition of the pipeline called `name`.
    ///
    /// The name appears in metrics and in marker keys, so it stays the same for the pipeline's
    /// life. It has 1 to 128 of the characters `A-Z a-z 0-9 _ - .`; the last step checks it.
    pub fn builder(name: &str) -> PipelineBuilder<T> {
        PipelineBuilder {
            name: name.to_owned(),
            record: PhantomData,
        }
    }
}

/// Why a pipeline could not be built.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The name cannot be used.
    #[error("the pipeline's name cannot be used")]
    Name(#[source] IdError),
    /// An option cannot be used.
    #[error("pipeline `{pipeline}` cannot be built")]
    Option {
        /// The pipeline's name.
        pipeline: String,
        /// Which option, and why.
        #[source]
        source: OptionError,
    },
}

murmur_state::debug_as_message!(BuildError);

/// A pipeline that needs its key next.
#[derive(Debug)]
#[must_use = "a pipeline is built by its last step, the delivery mode"]
pub struct PipelineBuilder<T> {
    name: String,
    record: PhantomData<fn() -> T>,
}

impl<T: Send + Sync + 'static> PipelineBuilder<T> {
    /// Each record counts for one key.
    pub fn key<K: AsRef<str>>(self, key: impl Fn(&T) -> K + Send + Sync + 'static) -> Keyed<T> {
        self.keys(move |record, out| out(key(record).as_ref()))
    }

    /// Each record counts for every key that `keys` passes to `out`: for roll-ups, without an
    /// allocation per key.
    ///
    /// A key passed twice counts once. A record without keys is skipped, and counted as skipped.
    pub fn keys(self, keys: impl Fn(&T, &mut dyn FnMut(&str)) + Send + Sync + 'static) -> Keyed<T> {
        Keyed {
            name: self.name,
            keys: Box::new(keys),
        }
    }
}

/// A pipeline that needs its value next, or [`count`](Keyed::count).
#[must_use = "a pipeline is built by its last step, the delivery mode"]
pub struct Keyed<T> {
    name: String,
    keys: Box<KeysFn<T>>,
}

impl<T: Send + Sync + 'static> Keyed<T> {
    /// The value that a record adds, before the monoid lifts it.
    pub fn value<I: 'static>(
        self,
        value: impl Fn(&T) -> I + Send + Sync + 'static,
    ) -> Valued<T, I> {
        Valued {
            keyed: self,
            value: Box::new(value),
        }
    }

    /// Counts records; no value is needed.
    pub fn count(self) -> Definition<T, Count> {
        self.value(|_| ()).aggregate(Count::new())
    }
}

/// A pipeline that needs its monoid next.
#[must_use = "a pipeline is built by its last step, the delivery mode"]
pub struct Valued<T, I> {
    keyed: Keyed<T>,
    value: Box<ValueFn<T, I>>,
}

impl<T: Send + Sync + 'static, I: 'static> Valued<T, I> {
    /// How values combine.
    pub fn aggregate<M: Monoid<Input = I>>(self, monoid: M) -> Definition<T, M> {
        Definition {
            name: self.keyed.name,
            version: 1,
            plan: Plan {
                keys: self.keyed.keys,
                value: self.value,
                monoid,
                window: None,
                invert: None,
                every_change: false,
                keeps_expired: false,
                settles: false,
                expires_at: None,
            },
        }
    }
}

/// A pipeline that needs its store next, and can be given a window and retraction.
#[must_use = "a pipeline is built by its last step, the delivery mode"]
pub struct Definition<T, M: Monoid> {
    name: String,
    version: u32,
    plan: Plan<T, M>,
}

impl<T: Send + Sync + 'static, M: Monoid> Definition<T, M> {
    /// Keeps one value per key and window of time.
    ///
    /// The time comes from the item. An old image is therefore taken back from its own bucket, a
    /// scanned row lands where its change would, and a recount is possible. Default: no window,
    /// bucket 0.
    pub fn window<At: Into<Timestamp>>(
        mut self,
        window: Window,
        at: impl Fn(&T) -> At + Send + Sync + 'static,
    ) -> Self {
        self.plan.window = Some((
            window,
            Time::Item(Box::new(move |record| at(record).into())),
        ));
        self
    }

    /// Keeps one value per key and window of the time at which the *change* was made, as the stream
    /// gives it (`ApproximateCreationDateTime`, rounded to the second, the same on every
    /// redelivery).
    ///
    /// The bucket cannot be computed from the item, so retraction and bootstrap are refused, and a
    /// recount of the table has nothing to compare with. A record is rejected if it has no time, or
    /// a time that cannot be in seconds. A record whose time is more than 45 minutes ahead of the
    /// clock is reported, since either of the two may be wrong.
    pub fn window_by_arrival(mut self, window: Window) -> Self {
        self.plan.window = Some((window, Time::Arrival));
        self
    }

    /// A MODIFY or REMOVE takes back what the old image added, no matter whether a user or Time to
    /// Live removed the item. [`keep_expired_items`](Definition::keep_expired_items) makes an
    /// exception of Time to Live.
    ///
    /// Needs a monoid with an inverse, and a stream of NEW_AND_OLD_IMAGES.
    ///
    /// Default: none. A definition says either this or [`every_change`](Definition::every_change);
    /// with neither or both, the last step refuses it. Two kinds of pipeline need neither:
    ///
    /// - A [`ledger`](Stored::ledger) retracts by itself.
    /// - Idempotent monoids (Max, Min, Set, First, Last) never take anything back: a maximum is the
    ///   maximum ever seen.
    pub fn retract(mut self) -> Self
    where
        M: Group,
    {
        self.plan.invert = Some(|monoid, value| monoid.invert(value));
        self
    }

    /// Every change adds the value of its new image, and nothing is taken back: a MODIFY counts its
    /// item again, and a REMOVE changes nothing.
    ///
    /// For tables whose items are events that never change, and for counting changes. Any stream
    /// with new images will do.
    ///
    /// Default: none; see [`retract`](Definition::retract). The last step refuses it together with
    /// `retract`, and with a [`ledger`](Stored::ledger), whose totals follow the table. Idempotent
    /// monoids behave like this anyway.
    pub fn every_change(mut self) -> Self {
        self.plan.every_change = true;
        self
    }

    /// An item that DynamoDB's Time to Live removes keeps counting with its last value; only a
    /// removal by a user takes it back. For tables that drop old items while their totals stay.
    ///
    /// A removal is by Time to Live if the stream says so, or the item's own time
    /// ([`expires_at`](Definition::expires_at)). It changes no total, and is counted under
    /// `:ttl_kept`.
    ///
    /// - The old image of a removal that the stream marks is not decoded, except for a
    ///   [ledger](Stored::ledger), which stores its value. A ledger therefore needs a stream of
    ///   NEW_AND_OLD_IMAGES.
    /// - An item that is put under the same key afterwards counts in addition to the kept value.
    /// - A bootstrap only finds items that are in the table. Of the items removed before it, only
    ///   those count whose removal the stream consumer reads, and only with a ledger.
    ///
    /// Default: a removal by Time to Live is taken back like any other. The last step refuses this
    /// option unless [`retract`](Definition::retract) or a ledger takes removals back.
    pub fn keep_expired_items(mut self) -> Self {
        self.plan.keeps_expired = true;
        self
    }

    /// The time from which Time to Live may remove an item, as the table's TTL attribute holds it;
    /// `None` if the item has none. With [`keep_expired_items`], every removal of an item at or
    /// after that time counts as one by Time to Live.
    ///
    /// Replicas of a global table need this option: a removal by Time to Live in another region
    /// arrives there as if a user had made it. In return, an item that a user removes after its
    /// time, but before Time to Live does (which takes up to some days), is kept as well. The time
    /// of the removal is the change's creation time, or the clock's if the change has none.
    ///
    /// Needs a stream of NEW_AND_OLD_IMAGES, also with a [ledger](Stored::ledger): the old image of
    /// every removal is decoded. A bootstrap or a reconcile sees no old images, so it cannot tell
    /// why an item is gone.
    ///
    /// Default: a removal is by Time to Live if the stream says so. The last step refuses this
    /// option without [`keep_expired_items`].
    ///
    /// [`keep_expired_items`]: Definition::keep_expired_items
    ///
    /// ```
    /// # use murmur_core::{BuildError, Pipeline, Sum};
    /// # use murmur_state::{MemoryStore, Timestamp};
    /// struct Session { page: String, seconds: i64, ttl: Option<i64> }
    ///
    /// # fn main() -> Result<(), BuildError> {
    /// # let store = MemoryStore::new(Sum::new());
    /// let time_on_page = Pipeline::builder("time_on_page")
    ///     .key(|s: &Session| s.page.clone())
    ///     .value(|s| s.seconds)
    ///     .aggregate(Sum::new())
    ///     .retract()
    ///     .keep_expired_items()
    ///     .expires_at(|s| s.ttl.map(Timestamp::from_secs))
    ///     .store(store)
    ///     .exactly_once()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn expires_at<At: Into<Timestamp>>(
        mut self,
        at: impl Fn(&T) -> Option<At> + Send + Sync + 'static,
    ) -> Self {
        self.plan.expires_at = Some(Box::new(move |record| at(record).map(Into::into)));
        self
    }

    /// Lets items leave the [ledger](Stored::ledger) one by one after the bootstrap. Changes of a
    /// settled item then cost what [`exactly_once`](Stored::exactly_once) costs, instead of three
    /// to four write units.
    ///
    /// Items settle after a bootstrap has ended: each process notices the end within a minute, and
    /// an item then settles at its first change. To settle a pipeline that was bootstrapped without
    /// this option, deploy the option everywhere first, then run `Settle` of `murmur-snapshot`.
    /// Settling cannot be undone: a process without the option reports every change of a settled
    /// item as failed.
    ///
    /// # Requirements
    ///
    /// - A stream of NEW_AND_OLD_IMAGES: every change must carry the state before it. An old image
    ///   that cannot be decoded counts for nothing, as it did when it was rejected as a new image.
    /// - Decoder, keys and values depend on one image alone, and stay the same as long as the
    ///   [version](Definition::version) does: the old image of a later change takes back what it
    ///   added as a new image. A decoder of whole records is refused.
    ///
    /// # What it gives up
    ///
    /// - A ledger heals a lost change (a gap in the stream, a record that is too old when it is
    ///   delivered) with the item's next change. For a settled item it stays lost. A reconcile
    ///   finds the keys that differ by a recount, but cannot repair them: start over with a new
    ///   version.
    /// - An audit compares rows with the ledger alone, so it is refused once an item has settled.
    /// - A change of a settled item that overflows a sum, or that cannot be read at all, is always
    ///   reported as failed. The callback for rejected records cannot pass it over.
    /// - The ledger row of a settled item (about 100 bytes plus twice the item's name) is never
    ///   removed, even after the item is gone.
    ///
    /// # Cost
    ///
    /// The first change of an item costs one write unit more than in exactly-once mode (one for
    /// each KB of its ledger row). Later changes cost at most half a read unit: a process remembers
    /// at least the last 16,384 settled items.
    ///
    /// Default: items stay in the ledger. The last step refuses this option without a ledger.
    pub fn settle(mut self) -> Self {
        self.plan.settles = true;
        self
    }

    /// The version of this definition. Default: 1.
    ///
    /// Raise it whenever keys, value, monoid, window or retraction change, so that values of the
    /// old definition do not mix with values of the new one. A new version needs new, empty state
    /// and marker tables. The exact modes refuse tables of another version. They also refuse a
    /// window, a built-in monoid or a retraction that changes without a new version.
    pub fn version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// The store that keeps the values. It must be able to hold this monoid.
    pub fn store<S: Store<M>>(self, store: S) -> Stored<T, M, S> {
        Stored {
            definition: self,
            store,
        }
    }
}

/// A pipeline that needs its delivery mode: the last step.
#[must_use = "a pipeline is built by its last step, the delivery mode"]
pub struct Stored<T, M: Monoid, S> {
    definition: Definition<T, M>,
    store: S,
}

impl<T: Send + Sync + 'static, M: Monoid, S: Store<M>> Stored<T, M, S> {
    /// Counts every record **at least** once: redelivery, and a write whose answer was lost, count
    /// it again. Exact only for idempotent monoids (Min, Max, Set, First, Last).
    ///
    /// Costs one write per key and batch.
    ///
    /// # Errors
    ///
    /// [`BuildError`] if the name or an option cannot be used.
    pub fn at_least_once(self) -> Result<Pipeline<T>, BuildError> {
        self.build(|store, _| AtLeastOnce { store }, None)
    }

    /// Claims each event's id in the marker table, then counts the event. This is the mode of the
    /// original Murmur.
    ///
    /// Redelivered events are recognised. A claim names its owner: a process recognises its own
    /// claim after a lost answer, and never releases another's. If a merge fails, the claim is
    /// released, so that redelivery counts the event.
    ///
    /// # What remains wrong
    ///
    /// - An invocation that dies between claim and write loses the event.
    /// - A process that finds a claim takes the event as counted, although the claim's owner may
    ///   still fail.
    /// - A write that was applied although its answer was lost is counted again.
    /// - If an event with several keys fails, the keys merged before the failure are counted again.
    /// - A claim that arrives after its own release hides its event.
    /// - A claim that cannot be released hides its event. The record fails with a setup fault that
    ///   names the row to delete, and ends a bootstrap. If the record comes again before the row is
    ///   deleted, it is lost.
    ///
    /// Measured on orders of six customers: after a function was killed 47 times in the middle of
    /// its batches, all six totals were wrong, some too high and some too low. With
    /// [`exactly_once`](Stored::exactly_once) none was wrong after 74 kills.
    ///
    /// # Cost
    ///
    /// One conditional write per event (the claim), and one write per key and batch. A claim is
    /// named by the pipeline's name and the event id, so pipelines can share the table. `deduper`
    /// decides how long claims are kept.
    ///
    /// # Errors
    ///
    /// [`BuildError`] if the name or an option cannot be used.
    pub fn claim_first<D: Deduper + Checkpoints>(
        self,
        deduper: D,
    ) -> Result<Pipeline<T>, BuildError> {
        self.claim(deduper, ClaimNames::PipelineAndEvent)
    }

    /// Like [`claim_first`](Stored::claim_first), but a claim is named by the bare event id, as in
    /// tables of the original Murmur. Pipelines that share such a table hide events from each
    /// other, so give each pipeline its own.
    ///
    /// # Errors
    ///
    /// [`BuildError`] if the name or an option cannot be used.
    pub fn claim_first_by_bare_event_id<D: Deduper + Checkpoints>(
        self,
        deduper: D,
    ) -> Result<Pipeline<T>, BuildError> {
        self.claim(deduper, ClaimNames::BareEvent)
    }

    fn claim<D: Deduper + Checkpoints>(
        self,
        deduper: D,
        names: ClaimNames,
    ) -> Result<Pipeline<T>, BuildError> {
        let deduper = Arc::new(deduper);
        let checkpoints = Arc::clone(&deduper) as Arc<dyn Checkpoints>;
        self.build(
            |store, _| ClaimFirst {
                store,
                deduper,
                names,
            },
            Some(checkpoints),
        )
    }

    /// Counts every event exactly once on each of its keys, under redelivery, crashes, races and
    /// lost answers.
    ///
    /// An item that is scanned and streamed is two events. For a bootstrap of a table that changes
    /// meanwhile, use [`ledger`](Stored::ledger).
    ///
    /// # Errors
    ///
    /// [`BuildError`] if the name or an option cannot be used.
    pub fn exactly_once(self) -> Result<Pipeline<T>, BuildError>
    where
        S: ExactlyOnce<M>,
    {
        let checkpoints = self.store.checkpoints();
        self.build(
            |store, binding| OncePerKey(Owned::new(store, binding)),
            Some(checkpoints),
        )
    }

    /// Counts every item exactly once with its current value, also where a scan and the stream
    /// overlap: the mode for a table that is bootstrapped while it changes.
    ///
    /// A row of the marker table keeps what each item contributes; all these rows are the ledger. A
    /// later change replaces the item's contribution, so retraction is implied, and a stream of
    /// NEW_IMAGE is enough.
    ///
    /// Monoids without an inverse (Min, Max, Set and the like) do not compile with this mode.
    /// Bootstrap them in another mode; there, a deletion does not undo what its item added.
    ///
    /// ```compile_fail
    /// # use murmur_core::{Max, Pipeline};
    /// # use murmur_state::MemoryStore;
    /// # struct Order { customer: String, amount_cents: i64 }
    /// let pipeline = Pipeline::builder("largest")
    ///     .key(|o: &Order| o.customer.clone())
    ///     .value(|o| o.amount_cents)
    ///     .aggregate(Max::new())
    ///     .store(MemoryStore::new(Max::new()))
    ///     .ledger();
    /// ```
    ///
    /// # What to expect
    ///
    /// - The state table must be empty when the ledger begins, and belongs to one stream.
    /// - An item may name at most [`MAX_KEYS`](murmur_state::store::MAX_KEYS) keys; an item with more is
    ///   rejected.
    /// - Totals may step back for a while: records from before a scan bring older values of their
    ///   items, until the records after them are processed.
    /// - A pipeline stays with its ledger: another mode refuses the tables. With
    ///   [`settle`](Definition::settle), items leave the ledger one by one, and cost less from then
    ///   on.
    ///
    /// # Cost
    ///
    /// On DynamoDB: two write units per item and batch, two per key and transaction of up to 100
    /// rows, and a read unit per changed item.
    ///
    /// Storage: one row of some 300 bytes per item of the table. A row expires 48 hours after its
    /// last write if its item is gone, or counts only in windows whose rows have expired.
    ///
    /// # Errors
    ///
    /// [`BuildError`] if the name or an option cannot be used.
    pub fn ledger(self) -> Result<Pipeline<T>, BuildError>
    where
        M: Group,
        S: Ledger<M>,
    {
        let mut stored = self;
        stored.definition.plan.invert = None;
        let checkpoints = stored.store.checkpoints();
        let settles = stored.definition.plan.settles;
        stored.build(
            |store, binding| InLedger::new(Owned::new(store, binding), settles),
            Some(checkpoints),
        )
    }

    fn build<D: Delivery<M>>(
        self,
        delivery: impl FnOnce(S, Binding) -> D,
        markers: Option<Arc<dyn Checkpoints>>,
    ) -> Result<Pipeline<T>, BuildError> {
        let Definition {
            name,
            version,
            plan,
        } = self.definition;
        let pipeline = PipelineName::new(name.as_str()).map_err(BuildError::Name)?;
        let checked = plan.validate(D::LEDGER);
        checked.map_err(|source| BuildError::Option {
            pipeline: name,
            source,
        })?;
        let binding = Binding {
            pipeline: pipeline.clone(),
            version,
            mode: D::MODE.into(),
            definition: plan.definition().into(),
            stream: None,
        };
        let erased = TypedPipeline::new(pipeline, version, plan, delivery(self.store, binding));
        Ok(Pipeline {
            erased: Arc::new(erased),
            markers,
        })
    }
}

macro_rules! debug_by_name {
    ($($builder:ident<$($param:ident $(: $bound:ident)?),+> => $name:expr;)+) => {$(
        impl<$($param $(: $bound)?),+> fmt::Debug for $builder<$($param),+> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let name: fn(&Self) -> &str = $name;
                f.debug_tuple(stringify!($builder)).field(&name(self)).finish()
            }
        }
    )+};
}

debug_by_name! {
    Keyed<T> => |keyed| &keyed.name;
    Valued<T, I> => |valued| &valued.keyed.name;
    Definition<T, M: Monoid> => |definition| &definition.name;
    Stored<T, M: Monoid, S> => |stored| &stored.definition.name;
}
