//! The steps of a pipeline's definition.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use murmur_state::{
    Binding, Checkpoints, Deduper, ExactlyOnce, Group, IdError, Ledger, Monoid, OptionError,
    PipelineName, Store, Timestamp,
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
    /// The name appears in metrics and marker keys, and must stay the same for the pipeline's
    /// life: 1 to 128 of the characters `A-Z a-z 0-9 _ - .`, checked at the end.
    pub fn builder(name: &str) -> PipelineBuilder<T> {
        PipelineBuilder {
            name: name.to_owned(),
            record: PhantomData,
        }
    }
}

/// Why a pipeline could not be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
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

    /// Each record counts for every key that is put `out`: roll-ups, without an allocation per
    /// key. A key put out twice counts once; a record that puts out none counts for nothing and
    /// is counted as skipped.
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
    /// What a record adds, before the monoid lifts it.
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
    /// Values are kept per window of time. The time comes from the item, so that an old image is
    /// taken back from its own bucket, a scanned row lands where its change would, and a recount
    /// is possible. Default: no window, bucket 0.
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

    /// Values are kept per window of the time at which the *change* was made, as the stream says
    /// it (`ApproximateCreationDateTime`, rounded to the second, the same on every redelivery).
    ///
    /// The item itself then says nothing about its bucket: retraction and bootstrap are refused,
    /// and no recount of the table can be compared. A record without the time is rejected, as is one
    /// whose time cannot be in seconds. One whose time is more than 45 minutes ahead of the clock is
    /// reported: either may be wrong.
    pub fn window_by_arrival(mut self, window: Window) -> Self {
        self.plan.window = Some((window, Time::Arrival));
        self
    }

    /// MODIFY and REMOVE take back what the old image had added, whoever removed the item
    /// ([`keep_expired_items`](Definition::keep_expired_items) makes an exception). Needs a monoid
    /// with an inverse, and a stream of NEW_AND_OLD_IMAGES.
    ///
    /// Default: none. A [`ledger`](Stored::ledger) takes back by itself. In the other modes a definition
    /// says either this or [`every_change`](Definition::every_change), and is refused at the end if it
    /// says neither or both. Idempotent monoids (Max, Min, Set, First, Last) need neither: nothing is ever
    /// taken back, so that a maximum is the maximum ever seen.
    pub fn retract(mut self) -> Self
    where
        M: Group,
    {
        self.plan.invert = Some(|monoid, value| monoid.invert(value));
        self
    }

    /// Every change adds what the new image says, and nothing is taken back: a MODIFY of an item counts
    /// again, and a REMOVE changes nothing. For tables whose items are events that never change, and for
    /// counting changes. Any stream with new images will do.
    ///
    /// Default: none; see [`retract`](Definition::retract). Refused at the end together with `retract`, and
    /// with a [`ledger`](Stored::ledger), where totals follow the table. For idempotent monoids it says
    /// what is so anyway.
    pub fn every_change(mut self) -> Self {
        self.plan.every_change = true;
        self
    }

    /// An item that DynamoDB's Time to Live removes goes on counting with what it was last; only
    /// a user's removal takes it back. For tables that forget old items while their totals stay.
    ///
    /// A removal is by Time to Live if the stream says so, or the item's own time
    /// ([`expires_at`](Definition::expires_at)). It changes no total, and is counted under
    /// `:ttl_kept`. Its old image is not even decoded where the stream says so, but for a
    /// [ledger](Stored::ledger), which keeps what it says: the stream must be of NEW_AND_OLD_IMAGES
    /// then. An item put anew under the same key afterwards counts beside what is kept. A bootstrap
    /// finds only what is in the table: of what was removed before, only that counts whose removal
    /// live reads, with a ledger.
    ///
    /// Default: a removal by Time to Live is taken back like any other. Refused at the end
    /// unless removals are taken back at all, by [`retract`](Definition::retract) or a ledger.
    pub fn keep_expired_items(mut self) -> Self {
        self.plan.keeps_expired = true;
        self
    }

    /// When Time to Live may remove an item: the time in the attribute that the table's Time to Live
    /// goes by, `None` if the item has none. With [`keep_expired_items`], every removal of an item
    /// at or after that time then counts as one by Time to Live.
    ///
    /// Needed for replicas of a global table: there, a removal by Time to Live that another region
    /// made comes as if a user had made it. The other way round, an item that a user removes after
    /// its time, and before Time to Live does (that takes up to some days), is kept as well. The time
    /// of the removal is the change's own creation time, by the clock where there is none.
    ///
    /// It reads the old image, in a [ledger](Stored::ledger) too: the stream must be of
    /// NEW_AND_OLD_IMAGES, and the old image of every removal is decoded. A bootstrap or a reconcile
    /// finds no old images: to them an item that is gone may have been removed by anything.
    ///
    /// Default: a removal is by Time to Live if the stream says so. Refused at the end without
    /// [`keep_expired_items`].
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

    /// Items leave the [ledger](Stored::ledger) one by one once the bootstrap is finished, and their
    /// changes cost what [`exactly_once`](Stored::exactly_once) costs from then on, instead of three to
    /// four write units. An item leaves it by its first change that a process counts after it has heard,
    /// which takes a minute at the most.
    ///
    /// The end of a bootstrap lets items settle. A pipeline that was bootstrapped without this option
    /// is first deployed with it, everywhere, and then told by `Settle` of `murmur-snapshot`. It cannot
    /// be taken back: a process without the option reports every change of a settled item.
    ///
    /// # What it asks for
    ///
    /// - A stream of NEW_AND_OLD_IMAGES: every change must say what its item was before. What cannot be
    ///   decoded as an old image counts for nothing, as it did when it was rejected as a new one.
    /// - Decoder, keys and values that are functions of one image alone, and the same ones as long as the
    ///   [version](Definition::version) is: what an image contributed is taken back by what it says later.
    ///   A decoder of whole records is refused.
    ///
    /// # What it gives up
    ///
    /// - A change that is lost (a gap in the stream, a record that is too old when it is delivered) is
    ///   healed by its item's next change in a ledger, and never once the item has settled. A reconcile
    ///   finds keys that differ by a recount, and cannot mend them: begin anew, as a new version.
    /// - An audit, which compares rows with the ledger alone, is refused once an item has settled.
    /// - A change of a settled item that fits no sum, or that cannot be read at all, is always reported,
    ///   and never passed over by a callback.
    /// - The ledger row of a settled item, some 100 bytes and twice its name, stays for good, also after
    ///   the item is gone.
    ///
    /// # Cost
    ///
    /// An item's first change costs a write unit more than exactly-once (one for each KB of its ledger
    /// row), later ones half a read unit at the most: the last 16,384 settled items and more are remembered.
    ///
    /// Default: items stay in the ledger. Refused at the end without a ledger.
    pub fn settle(mut self) -> Self {
        self.plan.settles = true;
        self
    }

    /// The version of this definition: raise it whenever keys, value, monoid, window or what is
    /// taken back change, so that what the old definition counted is not mixed with what the new
    /// one counts. A new version needs new, empty state and marker tables; the exact modes refuse the
    /// old ones, and a window, a built-in monoid or a retraction that changes without a new version.
    /// Default 1.
    pub fn version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// Where the values are kept. It must be able to hold this monoid.
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
    /// Every record is counted **at least** once: redelivery, and a write whose answer was lost,
    /// count it again. Exact only for idempotent monoids (Min, Max, Set, First, Last). One write
    /// per key and batch.
    ///
    /// # Errors
    ///
    /// [`BuildError`] if the name or an option cannot be used.
    pub fn at_least_once(self) -> Result<Pipeline<T>, BuildError> {
        self.build(|store, _| AtLeastOnce { store }, None)
    }

    /// Claims each event's id in the marker table, then counts it: what the original does.
    ///
    /// Redelivered events are recognised. A claim carries its owner: nobody releases another's,
    /// and one whose answer was lost is known for one's own. If a merge fails, the claim is
    /// released, so that redelivery counts the event.
    ///
    /// # What remains wrong
    ///
    /// - An invocation that dies between claim and write loses the event.
    /// - Who meets a claim takes the event for counted, though its holder may still fail.
    /// - A write that was applied although its answer was lost is counted again.
    /// - Of an event with several keys, those merged before a failure are counted again.
    /// - A claim that is so late that it arrives after its release hides its event.
    /// - A claim that cannot be released hides its event. Its record fails, as a fault of the set-up
    ///   that names the row to delete, and ends a bootstrap; once it comes again it is lost.
    ///
    /// Measured on orders of six customers: after a function was killed 47 times in the middle of
    /// its batches all six totals were wrong, some too high and some too low; in
    /// [`exactly_once`](Stored::exactly_once) none was, after 74 kills.
    ///
    /// # Cost
    ///
    /// One conditional write per event (the claim) beside one write per key and batch. A claim's
    /// name is the pipeline's name and the event id, so that pipelines can share the table; it is
    /// kept as long as `deduper` was made to keep it.
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

    /// As [`claim_first`](Stored::claim_first), with claims named by the bare event id as in
    /// tables of the original. Pipelines that share such a table hide events from each other:
    /// give each its own.
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

    /// Every event is counted exactly once on each of its keys, under redelivery, crashes, races
    /// and lost answers.
    ///
    /// The same item once scanned and once streamed is two events: for a bootstrap of a table
    /// that keeps changing use [`ledger`](Stored::ledger).
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

    /// Every item counts exactly once with what it is now, also where a scan and the stream
    /// overlap: the mode for a table that is bootstrapped while it changes. What each item
    /// contributes is kept in a row of the marker table, the ledger, and replaced by what comes
    /// later. Implies retraction, by what the ledger knows; old images are not needed, NEW_IMAGE
    /// will do. Min, Max, Set and the like have no inverse, so that this does not compile for
    /// them: bootstrap them in another mode, and a deletion does not undo what its item gave.
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
    /// - An item may name at most [`MAX_KEYS`](murmur_state::MAX_KEYS) keys; one with more is
    ///   rejected.
    /// - Totals may step back for a while: records from before a scan bring older contents of
    ///   their items, until those that follow are done.
    /// - A pipeline stays with its ledger: another mode refuses the tables. Its items leave it one by
    ///   one where the definition says [`settle`](Definition::settle), and cost less from then on.
    ///
    /// # Cost
    ///
    /// On DynamoDB, two write units per item and batch, and two per key and transaction of up to
    /// 100 rows; a read unit per changed item. Storage: one row per item of the table, of some
    /// 300 bytes. The row of an item that is gone, or counts only in windows whose rows have expired,
    /// expires 48 hours after its last write.
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
