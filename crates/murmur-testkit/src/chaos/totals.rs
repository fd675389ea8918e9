//! Compares the totals with a recount that counts every event once.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use aws_sdk_dynamodb::types::AttributeValue;
use murmur_core::{Set, Window};
use murmur_state::Timestamp;
use murmur_state::monoid::Codec;

use super::history::{Address, Contribution};
use super::pipeline::{RETENTION_DAYS, SumAsBytes};
use super::report::Wrong;
use super::scenario::{Aggregate, Scenario};

pub(super) type Attributes = HashMap<String, AttributeValue>;

/// The most events of unknown fate for which every combination is tried.
const COMBINED: usize = 14;

/// What is known about the events of a history.
#[derive(Debug, Default)]
pub(super) struct Fates {
    /// Events reported as done and not passed to the callback.
    pub(super) counted: HashSet<String>,
    /// Events passed to the callback as too old. They may still count for some of their keys, if an
    /// invocation that never answered had taken them.
    pub(super) too_old: HashSet<String>,
}

/// What the events add to one row.
#[derive(Debug, Default)]
struct Expected {
    certain: Vec<i64>,
    perhaps: Vec<i64>,
}

/// Compares the rows of the state table with a recount.
pub(super) fn compare(
    scenario: &Scenario,
    contributions: &[Contribution],
    fates: &Fates,
    rows: &[Attributes],
    now: Timestamp,
) -> Vec<Wrong> {
    let mut expected: BTreeMap<Address, Expected> = BTreeMap::new();
    for Contribution { event, adds } in contributions {
        for (address, value) in adds {
            let row = expected.entry(address.clone()).or_default();
            match fates.counted.contains(event) {
                true => row.certain.push(*value),
                false => row.perhaps.push(*value),
            }
        }
    }
    let mut wrong = Vec::new();
    let mut found: BTreeMap<Address, Result<Found, String>> = BTreeMap::new();
    for row in rows {
        match address(row) {
            Some((entity, _)) if entity.starts_with('#') => {}
            Some(address) if expected.contains_key(&address) => {
                found.insert(address, Found::of(scenario.aggregate, row));
            }
            _ => wrong.push(Wrong::Unexpected(format!("{row:?}"))),
        }
    }
    for (address, expected) in &expected {
        let found = match found.remove(address).transpose() {
            Ok(found) => found,
            Err(why) => {
                wrong.push(Wrong::Unexpected(format!("{address:?}: {why}")));
                continue;
            }
        };
        let expired = found.is_none() && may_be_removed(scenario, address.1, now);
        if expired || expected.allows(scenario.aggregate, found.as_ref()) {
            continue;
        }
        wrong.push(Wrong::Total {
            row: format!("({:?}, {})", address.0, address.1),
            found: found.as_ref().map_or("no row".into(), ToString::to_string),
            too_high: expected.is_below(scenario.aggregate, found.as_ref()),
            wanted: expected.to_string(scenario.aggregate),
        });
    }
    wrong
}

fn address(row: &Attributes) -> Option<Address> {
    match (row.get("pk"), row.get("sk")) {
        (Some(AttributeValue::S(entity)), Some(AttributeValue::N(bucket))) => {
            Some((entity.clone(), bucket.parse().ok()?))
        }
        _ => None,
    }
}

/// Whether Time to Live may have removed the row.
fn may_be_removed(scenario: &Scenario, bucket: i64, now: Timestamp) -> bool {
    scenario.sweep.is_some()
        && scenario.window.is_some_and(|length| {
            let window = Window::of(length).retention_days(RETENTION_DAYS);
            window.ttl(bucket).is_some_and(|ttl| ttl <= now.as_secs())
        })
}

/// The value of a row, as an aggregate reads it.
#[derive(Debug, PartialEq)]
enum Found {
    Number(i128),
    Set(BTreeSet<i64>),
}

impl Found {
    fn of(aggregate: Aggregate, row: &Attributes) -> Result<Self, String> {
        let unreadable = || format!("no value in {row:?}");
        match (aggregate, row.get("v")) {
            (
                Aggregate::Sum | Aggregate::Count | Aggregate::Max,
                Some(AttributeValue::N(digits)),
            ) => digits.parse().map(Self::Number).map_err(|_| unreadable()),
            (Aggregate::Bytes, Some(AttributeValue::B(bytes))) => SumAsBytes
                .decode(bytes.as_ref())
                .map(|sum| Self::Number(sum.into()))
                .map_err(|error| error.to_string()),
            (Aggregate::Set, Some(AttributeValue::B(bytes))) => Set::<i64>::new()
                .decode(bytes.as_ref())
                .map(Self::Set)
                .map_err(|error| error.to_string()),
            _ => Err(unreadable()),
        }
    }
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Set(set) => write!(f, "{set:?}"),
        }
    }
}

impl Expected {
    fn allows(&self, aggregate: Aggregate, found: Option<&Found>) -> bool {
        match (aggregate, found) {
            (Aggregate::Max, _) => {
                let least = self.certain.iter().max();
                match found {
                    None => least.is_none(),
                    Some(Found::Number(number)) => {
                        let of = |values: &[i64]| values.iter().any(|v| i128::from(*v) == *number);
                        least.is_none_or(|least| *number >= i128::from(*least))
                            && (of(&self.certain) || of(&self.perhaps))
                    }
                    Some(Found::Set(_)) => false,
                }
            }
            (Aggregate::Set, None) => self.certain.is_empty(),
            (Aggregate::Set, Some(Found::Set(set))) => {
                let certain: BTreeSet<i64> = self.certain.iter().copied().collect();
                let all = certain.iter().chain(&self.perhaps).copied().collect();
                certain.is_subset(set) && set.is_subset(&all)
            }
            (_, None) => self.reaches(0),
            (_, Some(Found::Number(number))) => self.reaches(*number),
            (_, Some(Found::Set(_))) => false,
        }
    }

    /// Whether the certain events together with some of the uncertain ones add up to `total`.
    fn reaches(&self, total: i128) -> bool {
        let difference = total - self.sum();
        if self.perhaps.len() > COMBINED {
            let side = |sign: fn(&i64) -> bool| -> i128 {
                let values = self.perhaps.iter().copied().filter(sign);
                values.map(i128::from).sum()
            };
            return (side(|v| *v < 0)..=side(|v| *v > 0)).contains(&difference);
        }
        let mut sums = HashSet::from([0]);
        for value in &self.perhaps {
            let with: Vec<i128> = sums.iter().map(|sum| sum + i128::from(*value)).collect();
            sums.extend(with);
        }
        sums.contains(&difference)
    }

    fn sum(&self) -> i128 {
        self.certain.iter().copied().map(i128::from).sum()
    }

    fn is_below(&self, aggregate: Aggregate, found: Option<&Found>) -> bool {
        match (aggregate, found) {
            (_, None) => self.sum() < 0,
            (Aggregate::Max, Some(Found::Number(number))) => self
                .certain
                .iter()
                .all(|value| i128::from(*value) < *number),
            (_, Some(Found::Number(number))) => self.sum() < *number,
            (_, Some(Found::Set(set))) => self.certain.iter().all(|value| set.contains(value)),
        }
    }

    fn to_string(&self, aggregate: Aggregate) -> String {
        let certain = match aggregate {
            Aggregate::Max => format!("{:?}", self.certain.iter().max()),
            Aggregate::Set => format!("{:?}", self.certain.iter().collect::<BTreeSet<_>>()),
            Aggregate::Sum | Aggregate::Count | Aggregate::Bytes => self.sum().to_string(),
        };
        match self.perhaps.is_empty() {
            true => certain,
            false => format!("{certain}, perhaps with some of {:?}", self.perhaps),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(certain: &[i64], perhaps: &[i64]) -> Expected {
        Expected {
            certain: certain.to_vec(),
            perhaps: perhaps.to_vec(),
        }
    }

    #[test]
    fn a_sum_is_right_only_as_it_is_or_with_some_of_what_may_be() {
        let row = expected(&[5, -2], &[10, 100]);
        for (total, right) in [
            (3, true),
            (13, true),
            (113, true),
            (4, false),
            (23, false),
            (0, false),
        ] {
            let found = Found::Number(total);
            assert_eq!(row.allows(Aggregate::Sum, Some(&found)), right, "{total}");
        }
        assert!(expected(&[5, -5], &[]).allows(Aggregate::Count, None));
        assert!(!expected(&[5], &[]).allows(Aggregate::Bytes, None));
        let many = expected(&[1], &[7; 20]);
        assert!(many.reaches(141) && !many.reaches(142) && !many.reaches(0));
    }

    #[test]
    fn a_maximum_is_the_greatest_certain_value_or_a_greater_possible_one() {
        let row = expected(&[5, 7], &[6, 9]);
        for (found, right) in [(7, true), (9, true), (6, false), (8, false)] {
            let found = Found::Number(found);
            assert_eq!(row.allows(Aggregate::Max, Some(&found)), right);
        }
        assert!(!row.allows(Aggregate::Max, None));
    }

    #[test]
    fn a_set_holds_all_that_is_certain_and_nothing_unheard_of() {
        let row = expected(&[1, 2], &[3]);
        let set = |values: &[i64]| Found::Set(values.iter().copied().collect());
        for (found, right) in [
            (set(&[1, 2]), true),
            (set(&[1, 2, 3]), true),
            (set(&[1, 3]), false),
            (set(&[1, 2, 4]), false),
        ] {
            assert_eq!(row.allows(Aggregate::Set, Some(&found)), right, "{found}");
        }
    }
}
