use std::fmt;
use std::sync::Arc;

use murmur_state::{Checkpoints, PipelineName, Repeats};

use crate::erased::{ErasedPipeline, Facts};

/// One aggregate of a table: which keys a record counts for, what it adds, how values combine, over
/// which window, in which store, with which delivery guarantee.
///
/// Bootstrap, Lambda handler and stream reader share one definition. Its last step is the delivery
/// mode, since each of them obeys it. Cloning is cheap and shares the store.
///
/// ```
/// use murmur_core::{BuildError, Pipeline, Sum, Window};
/// use murmur_state::{MemoryStore, Timestamp};
///
/// struct Order { customer: String, amount_cents: i64, placed_at: i64 }
///
/// fn order_totals(store: MemoryStore<Sum>) -> Result<Pipeline<Order>, BuildError> {
///     Pipeline::builder("order_totals")
///         .key(|o: &Order| o.customer.clone())
///         .value(|o| o.amount_cents)
///         .aggregate(Sum::new())
///         .window(Window::daily().retention_days(90), |o| Timestamp::from_secs(o.placed_at))
///         .retract()
///         .store(store)
///         .exactly_once()
/// }
/// # order_totals(MemoryStore::new(Sum::new())).unwrap();
/// ```
///
/// Mistakes do not compile. A maximum cannot be retracted:
///
/// ```compile_fail
/// # use murmur_core::{Max, Pipeline};
/// # struct Order { customer: String, amount_cents: i64 }
/// let pipeline = Pipeline::builder("largest")
///     .key(|o: &Order| o.customer.clone())
///     .value(|o| o.amount_cents)
///     .aggregate(Max::new())
///     .retract();
/// ```
///
/// A store of sums holds no maximum:
///
/// ```compile_fail
/// # use murmur_core::{Max, Pipeline, Sum};
/// # use murmur_state::MemoryStore;
/// # struct Order { customer: String, amount_cents: i64 }
/// let pipeline = Pipeline::builder("largest")
///     .key(|o: &Order| o.customer.clone())
///     .value(|o| o.amount_cents)
///     .aggregate(Max::new())
///     .store(MemoryStore::new(Sum::new()))
///     .at_least_once();
/// ```
///
/// A pipeline without a key, a value, a store or a mode is incomplete:
///
/// ```compile_fail
/// # use murmur_core::{Pipeline, Sum};
/// # struct Order { customer: String, amount_cents: i64 }
/// let pipeline = Pipeline::builder("totals")
///     .key(|o: &Order| o.customer.clone())
///     .aggregate(Sum::new());
/// ```
pub struct Pipeline<T> {
    pub(crate) erased: Arc<dyn ErasedPipeline<T>>,
    pub(crate) markers: Option<Arc<dyn Checkpoints>>,
}

impl<T> Pipeline<T> {
    pub(crate) fn facts(&self) -> &Facts {
        self.erased.facts()
    }

    /// The pipeline's name.
    pub fn name(&self) -> &PipelineName {
        &self.facts().name
    }

    /// Whether it retracts: takes back the values of old images.
    pub fn retracts(&self) -> bool {
        self.facts().retracts
    }

    /// Whether its stream must carry old images: for retraction, for a ledger that stores the
    /// values of expired items, or for items that settle.
    pub fn needs_old_images(&self) -> bool {
        let facts = self.facts();
        facts.settles || facts.retracts || facts.needs_old_of_expired || facts.needs_old_of_removed
    }

    /// Whether its windows go by the time of arrival, which a scan does not know.
    pub fn windows_by_arrival(&self) -> bool {
        self.facts().windows_by_arrival
    }

    /// What its delivery mode does with a redelivered record.
    pub fn repeats(&self) -> Repeats {
        self.facts().repeats
    }

    /// Whether it keeps a ledger: its mode is [`ledger`](crate::definition::Stored::ledger).
    pub fn keeps_ledger(&self) -> bool {
        self.facts().keeps_ledger
    }

    /// Whether items may leave its ledger ([`settle`](crate::Definition::settle)).
    pub fn settles(&self) -> bool {
        self.facts().settles
    }

    /// Whether items that Time to Live removed keep counting
    /// ([`keep_expired_items`](crate::Definition::keep_expired_items)).
    pub fn keeps_expired_items(&self) -> bool {
        self.facts().keeps_expired
    }

    /// The definition as text, as far as it can be put into words: name, version, mode, window, and
    /// the location of its state.
    ///
    /// Work that spans several processes must not continue under another fingerprint. The text
    /// cannot tell two functions for keys or values apart; the
    /// [version](crate::Definition::version) does that.
    pub fn fingerprint(&self) -> String {
        self.facts().fingerprint.clone()
    }

    /// Its marker table as a checkpoint store; `None` in at-least-once mode, which has no marker
    /// table.
    pub fn checkpoints(&self) -> Option<&Arc<dyn Checkpoints>> {
        self.markers.as_ref()
    }
}

impl<T> Clone for Pipeline<T> {
    fn clone(&self) -> Self {
        Self {
            erased: Arc::clone(&self.erased),
            markers: self.markers.clone(),
        }
    }
}

impl<T> fmt::Debug for Pipeline<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline")
            .field("name", &&self.facts().name.as_str())
            .field("repeats", &self.facts().repeats)
            .finish_non_exhaustive()
    }
}
