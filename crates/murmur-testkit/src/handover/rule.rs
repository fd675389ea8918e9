//! The rules of the cut-over. Each rule can be left out.
//!
//! The product has no switch for its rules. A test ledger passes changed entries to the real one, a
//! test scan passes changed pages to the bootstrap, and requests to tables are changed on their
//! way.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use murmur_state::store::{Add, Bound, Mend, Outcome, Position, Replace};
use murmur_state::{Deadline, Group, ItemId, Key, Ledger, SequenceNumber};
use serde_json::{Map, Value, json};

use super::body::{Body, Told};
use super::history::Contribution;
use super::scenario::{Keeping, Live, Scenario};
use super::settling::SETTLED;
use crate::rewrite::{mentions, parts_mut, replace};
use crate::runs::{lock, must};

/// A rule of the cut-over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// A scanned row over S(c) changes nothing.
    ScannedOnce,
    /// A scanned row over T(s, c) changes nothing.
    StreamOverScan,
    /// A record whose number is no higher than the ledger's changes nothing.
    NumbersRise,
    /// An item that is gone stays known as T(s, ∅).
    GoneIsKnown,
    /// An item's earlier contribution comes from the ledger, not from the old image.
    LedgerNotOldImage,
    /// A record whose new image is skipped or rejected contributes ∅.
    SkippedIsNothing,
    /// An item that Time to Live removed keeps its contribution, if the definition says so.
    KeptIsKept,
    /// The token is captured before the first page is read.
    TokenBeforeScan,
    /// Pages are read consistently.
    ConsistentPages,
    /// Another attempt skips a page only if the page was completed.
    PageBeforeCheckpoint,
    /// A page is written within an hour of its request, or not at all.
    WrittenInTime,
    /// A ledger row is written only over the version that was read.
    VersionAsRead,
    /// It is not enough that the ledger row is older than the record.
    NewerIsNotEnough,
    /// Ledger rows and sums are written in one transaction.
    OneTransaction,
    /// An item settles alone only where its contribution is the one from before the record.
    MarkedAsBefore,
    /// A mark is written only over the version that was read.
    MarkedOverVersion,
    /// A mark is just below the record, which has not counted yet.
    MarkedBelow,
    /// An item that settles in a transaction with a record settles at that record, which has
    /// counted.
    SettledWithRecord,
    /// A record that a settled item has already counted changes nothing.
    SeenBySettled,
    /// A settled item is never forgotten.
    SettledForGood,
    /// A repair does not change a settled item.
    SettledNotMended,
}

impl Rule {
    /// All rules.
    pub const ALL: [Self; 21] = [
        Self::ScannedOnce,
        Self::StreamOverScan,
        Self::NumbersRise,
        Self::GoneIsKnown,
        Self::LedgerNotOldImage,
        Self::SkippedIsNothing,
        Self::KeptIsKept,
        Self::TokenBeforeScan,
        Self::ConsistentPages,
        Self::PageBeforeCheckpoint,
        Self::WrittenInTime,
        Self::VersionAsRead,
        Self::NewerIsNotEnough,
        Self::OneTransaction,
        Self::MarkedAsBefore,
        Self::MarkedOverVersion,
        Self::MarkedBelow,
        Self::SettledWithRecord,
        Self::SeenBySettled,
        Self::SettledForGood,
        Self::SettledNotMended,
    ];
}

impl Rule {
    /// Where the state must be kept so that the rule can be left out.
    pub fn keeping(self) -> Keeping {
        match self {
            Self::WrittenInTime
            | Self::VersionAsRead
            | Self::NewerIsNotEnough
            | Self::OneTransaction
            | Self::MarkedOverVersion
            | Self::MarkedBelow
            | Self::SettledForGood => Keeping::Tables,
            _ => Keeping::Memory,
        }
    }

    /// Whether a run of the scenario can show that the rule is missing.
    pub fn matters_in(self, scenario: &Scenario) -> bool {
        let from_token = scenario.live == Live::AtToken && !scenario.cuts.is_empty();
        match self {
            Self::KeptIsKept => scenario.keeps_expired,
            Self::TokenBeforeScan | Self::ConsistentPages => from_token,
            Self::PageBeforeCheckpoint => scenario.bootstraps.len() > 1,
            Self::WrittenInTime => scenario.forgets,
            Self::VersionAsRead | Self::NewerIsNotEnough => {
                scenario.live == Live::Mapping && scenario.trouble.race > 0.1
            }
            Self::SettledForGood => scenario.settling.is_some() && scenario.forgets,
            Self::MarkedAsBefore
            | Self::MarkedOverVersion
            | Self::MarkedBelow
            | Self::SettledWithRecord
            | Self::SeenBySettled
            | Self::SettledNotMended => scenario.settling.is_some(),
            _ => true,
        }
    }

    /// Leaves the rule out of the process's requests to tables, if it can be left out there.
    pub(super) fn leave_out(self, body: &Arc<Body>) {
        match self {
            Self::VersionAsRead => over_known_rows(body, |put| {
                replace(put, CONDITION, "ver = :ver", "(ver = :ver OR ver <> :ver)");
            }),
            Self::NewerIsNotEnough => over_known_rows(body, |put| {
                let at = put.get("Item").and_then(|item| item.get("at")).cloned();
                let Some(at) = at else { return };
                let newer = "(ver = :ver OR attribute_not_exists(#at) OR #at < :at)";
                replace(put, CONDITION, "ver = :ver", newer);
                put.insert("ExpressionAttributeNames".into(), json!({ "#at": "at" }));
                if let Some(values) = put.get_mut("ExpressionAttributeValues") {
                    values[":at"] = at;
                }
            }),
            // First the sums, then the ledger rows; some processes die in between.
            Self::OneTransaction => {
                let owner = Arc::downgrade(body);
                body.connection.rewrite(move |request| {
                    let Some(body) = owner.upgrade() else { return };
                    let actions = request.body.get_mut("TransactItems");
                    let Some(actions) = actions.and_then(Value::as_array_mut) else {
                        return;
                    };
                    let sums = |action: &Value| action.get("Put").is_none();
                    if actions.iter().any(sums) && body.dice(|dice| dice.u8(..20)) == 0 {
                        actions.retain(sums);
                        body.connection.kill_after(1);
                    }
                });
            }
            Self::MarkedOverVersion => settling(body, |put, alone| {
                if alone {
                    put.remove(CONDITION);
                    put.remove(VALUES);
                }
            }),
            Self::MarkedBelow => settling(body, |put, alone| {
                if alone && let Some(at) = put["Item"]["at"]["S"].as_str().map(str::to_owned) {
                    let (settled, below) = at.split_at(at.len() - NUMBER);
                    let below: u128 = must("a number", below.parse());
                    put["Item"]["at"]["S"] = json!(format!("{settled}{}", below + 1));
                }
            }),
            // As long as any other row of a ledger.
            Self::SettledForGood => {
                let clock = Arc::clone(&body.clock);
                settling(body, move |put, _| {
                    let ttl = clock.now().plus(LIFE).as_secs();
                    put["Item"]["ttl"] = json!({ "N": ttl.to_string() });
                });
            }
            _ => {}
        }
    }
}

/// How long a ledger row without a contribution is kept.
const LIFE: Duration = Duration::from_secs(48 * 3600);

/// The digits of a sequence number in these runs.
const NUMBER: usize = 21;

const VALUES: &str = "ExpressionAttributeValues";

/// Changes the rows of settling items that the process writes. The closure learns whether the row
/// is written alone.
fn settling(body: &Body, change: impl Fn(&mut Map<String, Value>, bool) + Send + Sync + 'static) {
    body.connection.rewrite(move |request| {
        let alone = request.body.get("TransactItems").is_none();
        for part in parts_mut(&mut request.body) {
            let at = part.get("Item").and_then(|item| item["at"]["S"].as_str());
            if at.is_some_and(|at| at.starts_with(SETTLED)) {
                change(part, alone);
            }
        }
    });
}

const CONDITION: &str = "ConditionExpression";

/// Changes the process's writes over ledger rows that it knows.
fn over_known_rows(body: &Body, change: impl Fn(&mut Map<String, Value>) + Send + Sync + 'static) {
    body.connection.rewrite(move |request| {
        for part in parts_mut(&mut request.body) {
            if part.contains_key("Item") && mentions(part, CONDITION, "ver = :ver") {
                change(part);
            }
        }
    });
}

/// What ledgers with a left-out rule must remember.
#[derive(Debug, Default)]
pub(super) struct Forgotten {
    /// How often each item was forgotten.
    times: HashMap<ItemId, u64>,
    /// How many names were invented.
    made_up: u64,
}

impl Forgotten {
    /// The name under which an item is known after it was forgotten.
    fn name(&self, item: &ItemId) -> ItemId {
        match self.times.get(item) {
            Some(times) => under(item, "forgotten", *times),
            None => item.clone(),
        }
    }

    /// A name that the ledger does not know.
    fn fresh(&mut self, item: &ItemId) -> ItemId {
        self.made_up += 1;
        under(item, "once more", self.made_up)
    }
}

fn under(item: &ItemId, why: &str, number: u64) -> ItemId {
    ItemId::from_parts([item.as_str(), why, &number.to_string()])
}

/// Lets the ledger replace the contributions in `entry`, as a ledger without the scenario's
/// left-out rule would.
pub(super) async fn settle<M, S>(
    store: &S,
    bound: &Bound,
    mut entry: Replace<i64>,
    body: &Body,
) -> Outcome
where
    M: Group<Value = i64>,
    S: Ledger<M>,
{
    let write = async |entry: Replace<i64>| {
        let entries = [entry];
        let outcomes = store.replace(bound, &entries, Deadline::NONE);
        let outcome = outcomes.await.into_iter().next();
        outcome.unwrap_or(Outcome::Blocked)
    };
    let shared = &body.shared;
    let Some(rule) = shared.scenario.without else {
        return write(entry).await;
    };
    let items = [entry.item.clone()];
    let known = store.known(bound, &items, Deadline::NONE);
    let known = must("what is known", known.await).pop().flatten();
    let known_at = known.as_ref().map(|known| known.at.clone());
    let has_settled = known.as_ref().is_some_and(|known| known.settled);
    let change = entry.change.as_ref();
    let settles = !has_settled && change.is_some_and(|change| change.settles);
    match (rule, &entry.at, known_at) {
        (Rule::ScannedOnce, Position::Scan, Some(Position::Scan))
        | (Rule::StreamOverScan, Position::Scan, Some(Position::Stream(_))) => {
            entry.item = lock(&shared.log).forgotten.fresh(&entry.item);
        }
        (Rule::NumbersRise, Position::Stream(at), Some(Position::Stream(known)))
            if *at <= known =>
        {
            entry.at = Position::Stream(next(&known));
        }
        (Rule::GoneIsKnown, at, _) => {
            let gone = entry.now.is_empty() && *at != Position::Scan;
            let item = entry.item.clone();
            entry.item = lock(&shared.log).forgotten.name(&item);
            let outcome = write(entry).await;
            if gone && matches!(outcome, Outcome::Applied) {
                *lock(&shared.log).forgotten.times.entry(item).or_default() += 1;
            }
            return outcome;
        }
        (Rule::LedgerNotOldImage, Position::Stream(at), known_at) => {
            let passed = matches!(known_at, Some(Position::Stream(known)) if *at <= known);
            let Told { old, .. } = shared.told.get(at).cloned().unwrap_or_default();
            let before = known.map_or_else(Vec::new, |known| known.now);
            if !passed {
                // Restores what the ledger retracts, and retracts what the old image says.
                let difference = Replace {
                    item: lock(&shared.log).forgotten.fresh(&entry.item),
                    now: difference(&before, &old),
                    keep: Vec::new(),
                    ..entry.clone()
                };
                write(difference).await;
            }
        }
        (Rule::SkippedIsNothing, Position::Stream(at), _) => {
            let Told { has_new, .. } = shared.told.get(at).cloned().unwrap_or_default();
            if has_new && entry.now.is_empty() {
                return Outcome::Applied;
            }
        }
        (Rule::KeptIsKept, ..) => entry.keep.clear(),
        (Rule::MarkedAsBefore, Position::Stream(at), known_at)
            if settles && !matches!(&known_at, Some(Position::Stream(known)) if at <= known) =>
        {
            let now = known.map_or_else(Vec::new, |known| known.now);
            let mut mark = entry.clone();
            mark.keep.clear();
            mark.now.clone_from(&now);
            if let Some(change) = &mut mark.change {
                change.before = now;
            }
            write(mark).await;
        }
        // The id counts once even where the item is marked.
        (Rule::SettledWithRecord, Position::Stream(at), _) if settles => {
            let below = previous(at);
            let below = Position::Stream(below);
            write(Replace {
                at: below,
                ..entry.clone()
            })
            .await;
        }
        (Rule::SeenBySettled, Position::Stream(at), Some(Position::Stream(known)))
            if has_settled && *at <= known =>
        {
            entry.at = Position::Stream(next(&known));
        }
        _ => {}
    }
    write(entry).await
}

/// Lets the ledger correct the contributions in `entry`, as a ledger without the scenario's
/// left-out rule would.
pub(super) async fn mend<M, S>(store: &S, bound: &Bound, entry: Mend<i64>, body: &Body) -> Outcome
where
    M: Group<Value = i64>,
    S: Ledger<M>,
{
    let shared = &body.shared;
    let items = [entry.item.clone()];
    let known = store.known(bound, &items, Deadline::NONE);
    let known = must("what is known", known.await).pop().flatten();
    let has_settled = known.is_some_and(|known| known.settled);
    let mut entry = [entry];
    if shared.scenario.without == Some(Rule::SettledNotMended) && has_settled {
        // The entry does not state the earlier contribution, so nothing is retracted.
        let [Mend { item, over, .. }] = &mut entry;
        *item = lock(&shared.log).forgotten.fresh(item);
        *over = None;
    }
    let outcomes = store.mend(bound, &entry, Deadline::NONE).await;
    outcomes.into_iter().next().unwrap_or(Outcome::Blocked)
}

/// A number above this one and below every other.
fn next(number: &SequenceNumber) -> SequenceNumber {
    let number: u128 = must("a number", number.as_str().parse());
    must("a number", SequenceNumber::new((number + 1).to_string()))
}

/// What is in `before` but not in `old`.
fn difference(before: &[Add<i64>], old: &Contribution) -> Vec<Add<i64>> {
    let mut left: Contribution = before
        .iter()
        .map(|add| ((add.key.entity().to_owned(), add.key.bucket()), add.value))
        .collect();
    for (address, value) in old {
        *left.entry(address.clone()).or_default() -= value;
    }
    let adds = left.into_iter().filter(|(_, value)| *value != 0);
    adds.map(|((entity, bucket), value)| Add {
        key: must("a key", Key::new(entity, bucket)),
        value,
        ttl: before.first().and_then(|add| add.ttl),
    })
    .collect()
}

/// The number just below this one.
fn previous(number: &SequenceNumber) -> SequenceNumber {
    number.predecessor().unwrap_or_else(|| number.clone())
}
