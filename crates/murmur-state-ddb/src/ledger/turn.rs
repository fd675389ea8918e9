//! The ledger's rule table: the fate of an item's entries, and what they change.

use std::collections::BTreeMap;
use std::time::Duration;

use super::entry;
use murmur_state::error::Place;
use murmur_state::store::{Add, ItemChange, LedgerEntry, Mend, Once, Outcome, Position, Replace};
use murmur_state::{ItemId, Key, SequenceNumber, StoreError, Timestamp};

/// How many bytes of a ledger row the contributions kept from earlier items of one name may take.
/// Any contributions of the present item fit beside them, within an item's limit of 400 KB. Above
/// the limit the record is blamed, not the row, which could otherwise never be written again.
const MOST_KEPT: usize = 200 * 1024;

/// How long before an entry is too old it stops settling its item. After that the item counts by
/// its id, perhaps in another process.
const HASTE: Duration = Duration::from_secs(3600);

/// One entry of a batch.
#[derive(Clone, Copy)]
pub(crate) struct Entry<'a> {
    /// Its index in the batch.
    pub(crate) index: usize,
    pub(crate) item: &'a ItemId,
    /// What the item contributes now.
    pub(crate) now: &'a [Add<i64>],
    found: Found<'a>,
}

/// How an entry found out what its item contributes.
#[derive(Clone, Copy)]
enum Found<'a> {
    /// It was seen in a scan or in the stream.
    Seen {
        at: &'a Position,
        created: Option<Timestamp>,
        keep: &'a [Add<i64>],
        change: Option<&'a ItemChange<i64>>,
    },
    /// It was looked up after the ledger had returned this version.
    LookedUp { over: Option<u64> },
}

impl<'a> Entry<'a> {
    pub(crate) fn seen(index: usize, entry: &'a Replace<i64>) -> Self {
        Self {
            index,
            item: &entry.item,
            now: &entry.now,
            found: Found::Seen {
                at: &entry.at,
                created: entry.created,
                keep: &entry.keep,
                change: entry.change.as_ref(),
            },
        }
    }

    pub(crate) fn looked_up(index: usize, entry: &'a Mend<i64>) -> Self {
        Self {
            index,
            item: &entry.item,
            now: &entry.now,
            found: Found::LookedUp { over: entry.over },
        }
    }

    /// How many keys it names.
    pub(crate) fn keys(&self) -> usize {
        let kept = match self.found {
            Found::Seen { keep, .. } => keep.len(),
            Found::LookedUp { .. } => 0,
        };
        self.now.len() + kept
    }

    /// Whether its item is to settle.
    pub(crate) fn settles(&self) -> bool {
        self.change().is_some_and(|change| change.settles)
    }

    fn change(&self) -> Option<&'a ItemChange<i64>> {
        match self.found {
            Found::Seen { change, .. } => change,
            Found::LookedUp { .. } => None,
        }
    }

    /// The sequence number just below the entry's, if the item contributed `contributes` before it.
    /// The item can settle there, and no row changes. `None` for an entry that may be too old by
    /// the time it counts by its id.
    fn settles_below(&self, contributes: &[Add<i64>], times: &Times) -> Option<SequenceNumber> {
        let Found::Seen {
            at: Position::Stream(at),
            change: Some(change),
            created,
            ..
        } = self.found
        else {
            return None;
        };
        let young = created.is_none_or(|created| times.now.since(created) + HASTE < times.too_old);
        if !change.settles || !young {
            return None;
        }
        let remains = |add: &Add<i64>| !is_over(add, times.now);
        let differs = difference(contributes, &change.before, remains);
        let same = differs.values().all(|row| row.by == 0);
        same.then(|| at.predecessor())?
    }

    /// The change of a settled item as an event of its own.
    pub(crate) fn event(&self, place: &Place) -> Result<Once<i64>, StoreError> {
        let Found::Seen {
            created,
            keep,
            change: Some(change),
            ..
        } = self.found
        else {
            return Err(StoreError::unknown_before(place.clone(), self.item));
        };
        let after: Vec<Add<i64>> = self.now.iter().chain(keep).cloned().collect();
        let rows = difference(&change.before, &after, |_| true).into_iter();
        // A contribution that is removed and added again does not change the row.
        let rows = rows.filter(|(_, row)| row.by != 0 || !row.was_there);
        let add = |(key, row): (&Key, Difference)| match i64::try_from(row.by) {
            Ok(value) => Ok(Add {
                key: key.clone(),
                value,
                ttl: row.ttl,
            }),
            Err(_) => Err(StoreError::Overflow {
                place: place.at(key),
            }),
        };
        Ok(Once {
            id: change.id.clone(),
            created,
            handed_over: change.handed_over,
            adds: rows.map(add).collect::<Result<_, _>>()?,
        })
    }

    /// Whether its item is probably not known yet.
    pub(crate) fn is_probably_first(&self) -> bool {
        match self.found {
            Found::Seen { at, .. } => *at == Position::Scan,
            Found::LookedUp { over } => over.is_none(),
        }
    }
}

/// The times that decide an entry's fate.
pub(crate) struct Times {
    pub(crate) now: Timestamp,
    /// The greatest age at which an entry of an unknown item is applied.
    pub(crate) too_old: Duration,
}

/// The fate of one entry.
#[derive(Debug)]
pub(crate) enum Fate {
    /// It has this outcome.
    Is(Outcome),
    /// It counts by the id of its event.
    ById,
}

impl Fate {
    pub(crate) fn is_failure(&self) -> bool {
        matches!(self, Self::Is(Outcome::Failed(_)))
    }
}

/// What some entries of an item change.
pub(crate) struct Turn {
    /// One for each entry, in order, provided that the change is made.
    pub(crate) fates: Vec<Fate>,
    /// What is known afterwards, or `None` if nothing changes.
    pub(crate) after: Option<LedgerEntry<i64>>,
    /// By how much its rows change.
    pub(crate) shares: Vec<RowShare>,
}

/// A change of one state row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RowShare {
    pub(crate) key: Key,
    pub(crate) by: i128,
    pub(crate) ttl: Option<i64>,
    /// Whether the item already contributes to the row, so that the row must exist.
    pub(crate) contributed: bool,
}

/// Takes an item through `entries`, in order, from what is known about it. A contribution to a row
/// for which `is_gone` is true is not taken back.
pub(crate) fn turn(
    place: &Place,
    known: Option<&LedgerEntry<i64>>,
    entries: &[Entry<'_>],
    times: &Times,
    is_gone: impl Fn(&Add<i64>) -> bool,
) -> Turn {
    // Contributions kept in rows that are over are dropped with those rows.
    let is_over = |add: &Add<i64>| is_over(add, times.now);
    let without = known
        .filter(|known| known.kept.iter().any(is_over))
        .map(|known| LedgerEntry {
            kept: known
                .kept
                .iter()
                .filter(|add| !is_over(add))
                .cloned()
                .collect(),
            ..known.clone()
        });
    let known = without.as_ref().or(known);
    let mut after: Option<LedgerEntry<i64>> = None;
    let mut settles = true;
    let mut fates = Vec::with_capacity(entries.len());
    for entry in entries {
        let before = after.as_ref().or(known);
        let next = step(place, before, entry, times);
        fates.push(match next {
            Err(fate) => fate,
            Ok(next) => {
                let contributes = before.map_or(&[][..], |before| &before.now);
                let below = match after {
                    None => entry.settles_below(contributes, times),
                    Some(_) => None,
                };
                match below {
                    Some(below) => {
                        after = Some(settled(next, Position::Stream(below)));
                        Fate::ById
                    }
                    None => {
                        settles &= entry.settles();
                        after = Some(next);
                        Fate::Is(Outcome::Applied)
                    }
                }
            }
        });
    }
    let shares = match &after {
        Some(after) if !after.settled => shares(known, after, is_gone),
        _ => Vec::new(),
    };
    let after = after.map(|after| match settles && !after.settled {
        true => {
            let at = after.at.clone();
            settled(after, at)
        }
        false => after,
    });
    Turn {
        fates,
        after,
        shares,
    }
}

/// The item of `known`, settled at `at`.
fn settled(known: LedgerEntry<i64>, at: Position) -> LedgerEntry<i64> {
    LedgerEntry {
        at,
        settled: true,
        now: Vec::new(),
        kept: Vec::new(),
        ..known
    }
}

/// Whether Time to Live may have removed the row of a contribution.
pub(super) fn is_over(add: &Add<i64>, now: Timestamp) -> bool {
    add.ttl.is_some_and(|ttl| ttl <= now.as_secs())
}

/// What is known after one entry, or the entry's fate if nothing changes.
fn step(
    place: &Place,
    known: Option<&LedgerEntry<i64>>,
    entry: &Entry<'_>,
    times: &Times,
) -> Result<LedgerEntry<i64>, Fate> {
    let unchanged = |outcome| Err(Fate::Is(outcome));
    let (at, keep) = match entry.found {
        Found::LookedUp { over } => {
            let settled = known.is_some_and(|known| known.settled);
            if settled || known.map(|known| known.version) != over {
                return unchanged(Outcome::Superseded);
            }
            let at = known.map_or(&Position::Scan, |known| &known.at);
            (at, &[][..])
        }
        Found::Seen {
            at, created, keep, ..
        } => {
            match (known.map(|known| &known.at), at) {
                (Some(Position::Scan), Position::Scan) => return unchanged(Outcome::Duplicate),
                (Some(Position::Stream(_)), Position::Scan) => {
                    return unchanged(Outcome::Superseded);
                }
                (Some(Position::Stream(seen)), Position::Stream(at)) if at == seen => {
                    return unchanged(Outcome::Duplicate);
                }
                (Some(Position::Stream(seen)), Position::Stream(at)) if at < seen => {
                    return unchanged(Outcome::Superseded);
                }
                _ if known.is_some_and(|known| known.settled) => return Err(Fate::ById),
                // A later version may have been removed.
                (None, Position::Stream(_)) => {
                    let old = created.filter(|created| times.now.since(*created) > times.too_old);
                    if let Some(created) = old {
                        let place = place.clone();
                        return unchanged(Outcome::Failed(StoreError::TooOld { place, created }));
                    }
                }
                _ => {}
            }
            (at, keep)
        }
    };
    let mut kept = known.map_or_else(Vec::new, |known| known.kept.clone());
    for add in keep {
        keep_too(place, &mut kept, add).map_err(|error| Fate::Is(Outcome::Failed(error)))?;
    }
    Ok(LedgerEntry {
        item: entry.item.clone(),
        // A row that was removed and is created again never reaches a version that it had before:
        // it had fewer versions than milliseconds have passed since.
        version: known.map_or_else(
            || u64::try_from(times.now.as_millis()).unwrap_or(1),
            |known| known.version.wrapping_add(1),
        ),
        at: at.clone(),
        settled: false,
        now: entry.now.to_vec(),
        kept,
    })
}

fn keep_too(place: &Place, kept: &mut Vec<Add<i64>>, add: &Add<i64>) -> Result<(), StoreError> {
    let Some(kept) = kept.iter_mut().find(|kept| kept.key == add.key) else {
        let bytes: usize = kept.iter().chain([add]).map(entry::part).sum();
        if bytes > MOST_KEPT {
            return Err(StoreError::InvalidValue {
                place: place.at(&add.key),
                reason: format!(
                    "items of this name that Time to Live removed still count for {} keys, the \
                     most that a ledger row holds; give the window a retention, or do not reuse \
                     the names of items",
                    kept.len()
                ),
                source: None,
            });
        }
        kept.push(add.clone());
        return Ok(());
    };
    kept.value = kept.value.checked_add(add.value).ok_or_else(|| {
        let place = place.at(&add.key);
        StoreError::Overflow { place }
    })?;
    Ok(())
}

/// The difference between two contributions of one item, row by row. Earlier contributions for
/// which `is_gone` is true are not taken back.
fn shares(
    before: Option<&LedgerEntry<i64>>,
    after: &LedgerEntry<i64>,
    is_gone: impl Fn(&Add<i64>) -> bool,
) -> Vec<RowShare> {
    let mut shares: BTreeMap<&Key, RowShare> = BTreeMap::new();
    let taken = before
        .iter()
        .flat_map(|before| {
            before
                .now
                .iter()
                .filter(|add| !is_gone(add))
                .chain(&before.kept)
        })
        .map(|add| (add, -i128::from(add.value), true));
    let added = after.now.iter().chain(&after.kept);
    let added = added.map(|add| (add, i128::from(add.value), false));
    for (add, by, contributed) in taken.chain(added) {
        let share = shares.entry(&add.key).or_insert_with(|| RowShare {
            key: add.key.clone(),
            by: 0,
            ttl: add.ttl,
            contributed,
        });
        share.by += by;
    }
    let shares = shares.into_values();
    shares
        .filter(|share| share.by != 0 || !share.contributed)
        .collect()
}

/// The difference between two contributions in one row.
struct Difference {
    by: i128,
    ttl: Option<i64>,
    /// Whether the first of the two has this row.
    was_there: bool,
}

/// The difference between two contributions, row by row, in additions that `count`. Sums of some 50
/// numbers of 64 bits fit in 128 bits.
fn difference<'a>(
    before: &'a [Add<i64>],
    after: &'a [Add<i64>],
    counts: impl Fn(&Add<i64>) -> bool,
) -> BTreeMap<&'a Key, Difference> {
    let mut rows: BTreeMap<&Key, Difference> = BTreeMap::new();
    let taken = before.iter().map(|add| (add, -i128::from(add.value), true));
    let added = after.iter().map(|add| (add, i128::from(add.value), false));
    for (add, by, was_there) in taken.chain(added).filter(|(add, ..)| counts(add)) {
        let row = rows.entry(&add.key).or_insert(Difference {
            by: 0,
            ttl: add.ttl,
            was_there,
        });
        row.by += by;
    }
    rows
}
