//! Recounts the totals from the demo's own log of writes, without Murmur's code.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use anyhow::{Context, Result};
use murmur_state::Grouped;

use super::rows::{Measure, Row};

/// Every write to the source table, in order.
#[derive(Default)]
pub(super) struct Log(Vec<(String, Option<(String, i128)>)>);

impl Log {
    /// Logs writes of these rows. A row without an item was removed.
    pub(super) fn extend(&mut self, rows: &[Row], measure: &Measure) -> Result<()> {
        for row in rows {
            let fact = match &row.item {
                None => None,
                Some(item) => {
                    let key = measure.text(item, &measure.key)?;
                    let value = match &measure.value {
                        None => Some(1),
                        Some(attribute) => measure
                            .text(item, attribute)?
                            .map(|text| units(&text, measure.decimals))
                            .transpose()?,
                    };
                    key.zip(value)
                }
            };
            self.0.push((row.id.clone(), fact));
        }
        Ok(())
    }

    /// The totals of the table as the writes left it.
    fn totals(&self) -> BTreeMap<String, i128> {
        let rows: HashMap<_, _> = self.0.iter().map(|(id, fact)| (id, fact)).collect();
        let mut totals = BTreeMap::new();
        for (key, value) in rows.into_values().flatten() {
            *totals.entry(key.clone()).or_default() += value;
        }
        totals
    }

    /// The keys that ever had a row. Such a key may have a total of zero, or none if its rows were
    /// removed before the pipeline saw them.
    fn keys(&self) -> BTreeSet<&String> {
        let facts = self.0.iter().filter_map(|(_, fact)| fact.as_ref());
        facts.map(|(key, _)| key).collect()
    }
}

/// `text` times ten to the power of `decimals`.
pub(super) fn units(text: &str, decimals: u32) -> Result<i128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let fraction = fraction.trim_end_matches('0');
    let missing = (decimals as usize)
        .checked_sub(fraction.len())
        .with_context(|| {
            format!(
                "`{text}` has {} decimals; say so with --decimals",
                fraction.len()
            )
        })?;
    let digits = format!("{whole}{fraction}{}", "0".repeat(missing));
    digits
        .parse()
        .with_context(|| format!("`{text}` is not a number like 12.34"))
}

/// The totals in the state table, with those of the recount.
#[derive(Debug)]
pub(super) struct Comparison {
    rows: BTreeMap<String, (Option<i128>, Option<i128>)>,
}

impl Comparison {
    pub(super) fn of(log: &Log, state: &BTreeMap<String, i128>) -> Self {
        let mut rows: BTreeMap<String, (Option<i128>, Option<i128>)> = BTreeMap::new();
        for (key, total) in log.totals() {
            rows.entry(key).or_default().0 = Some(total);
        }
        let once = log.keys();
        for (key, total) in state {
            let row = rows.entry(key.clone()).or_default();
            row.1 = Some(*total);
            if once.contains(key) {
                row.0.get_or_insert(0);
            }
        }
        Self { rows }
    }

    /// Whether at least one total was compared and all agree.
    pub(super) fn holds(&self) -> bool {
        !self.rows.is_empty() && self.differing().next().is_none()
    }

    fn differing(&self) -> impl Iterator<Item = (&String, &(Option<i128>, Option<i128>))> {
        self.rows
            .iter()
            .filter(|(_, (recounted, live))| recounted != live)
    }

    /// The total of `key` in the state table.
    #[cfg(test)]
    pub(super) fn total(&self, key: &str) -> Option<i128> {
        self.rows.get(key)?.1
    }

    pub(super) fn print_totals(&self) {
        for (key, (_, live)) in &self.rows {
            let live = live.map_or("missing".to_owned(), |total| total.to_string());
            println!("{key}\t{live}");
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |side: &Option<i128>| side.map_or("nothing".to_owned(), |n| n.to_string());
        for (key, (recounted, live)) in self.differing().take(20) {
            writeln!(
                f,
                "{key}: total {}, recount {}",
                show(live),
                show(recounted)
            )?;
        }
        match (self.rows.len(), self.differing().count()) {
            (0, _) => write!(f, "no totals compared: nothing is proven"),
            (all, n) => {
                let (all, differ) = (
                    Grouped(all as u64),
                    if n == 1 { "differs" } else { "differ" },
                );
                write!(
                    f,
                    "{all} totals compared with a recount: {} {differ}",
                    Grouped(n as u64)
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_compared_proves_nothing() {
        let nothing = Comparison::of(&Log::default(), &BTreeMap::new());
        assert!(!nothing.holds());
        assert!(nothing.to_string().contains("nothing is proven"));
    }

    #[test]
    fn the_last_write_of_a_row_counts() {
        let write = |id: &str, fact: Option<(&str, i128)>| {
            (
                id.to_owned(),
                fact.map(|(key, value)| (key.to_owned(), value)),
            )
        };
        let log = Log(vec![
            write("1", Some(("a", 5))),
            write("2", Some(("a", 7))),
            write("1", Some(("b", 1))),
            write("2", None),
        ]);
        let left = BTreeMap::from([("b".to_owned(), 1)]);
        assert_eq!(log.totals(), left);
        assert!(Comparison::of(&log, &left).holds());
        let of_nothing = |key: &str| {
            let mut totals = left.clone();
            totals.insert(key.to_owned(), 0);
            Comparison::of(&log, &totals).holds()
        };
        assert!(of_nothing("a") && !of_nothing("c"));
        let missing = BTreeMap::from([("a".to_owned(), 0)]);
        assert!(!Comparison::of(&log, &missing).holds());
    }

    #[test]
    fn units_are_exact() {
        assert_eq!(units("12.34", 2).unwrap(), 1234);
        assert_eq!(units("-0.5", 2).unwrap(), -50);
        assert_eq!(units("7.00", 0).unwrap(), 7);
        assert!(units("0.001", 2).is_err() && units("x", 0).is_err());
    }
}
