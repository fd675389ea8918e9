//! Reads the protocol in the store's requests and answers: finds rows and pages in them, and counts
//! what happened.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Map, Value};

use super::pipeline::NAME;
use crate::cloud::{Answered, Request};
use crate::rewrite::mentions;
use crate::runs::lock;

/// More requests than any run that terminates makes.
const ENDLESS: u64 = 500_000;

/// The address of a state row as text: entity and bucket.
pub(super) type RowName = (String, String);

/// The state row that an item or a key belongs to.
pub(super) fn row_of(item: &Value) -> Option<RowName> {
    let entity = item["pk"]["S"].as_str()?;
    let bucket = item["sk"]["N"].as_str()?;
    Some((entity.to_owned(), bucket.to_owned()))
}

/// The row and the level of a page, from the page's key. The level is `None` for the page of a
/// single event without a creation time.
pub(super) fn page_of(key: &str) -> Option<(RowName, Option<i64>)> {
    let mut left = key.strip_prefix(NAME)?.strip_prefix("/page/")?;
    let mut part = || {
        let (length, rest) = left.split_once(':')?;
        let (part, rest) = rest.split_at_checked(length.parse().ok()?)?;
        left = rest;
        Some(part.to_owned())
    };
    part()?;
    let row = (part()?, part()?);
    Some((row, part()?.parse().ok()))
}

/// The pages that a request reads.
pub(super) fn pages_read(request: &Request) -> Vec<String> {
    if request.operation != "BatchGetItem" {
        return Vec::new();
    }
    let tables = request.body["RequestItems"].as_object();
    let parts = tables.into_iter().flatten().map(|(_, part)| part);
    let keys = parts.flat_map(|part| part["Keys"].as_array().into_iter().flatten());
    let names = keys.filter_map(|key| key["pk"]["S"].as_str());
    names
        .filter(|name| page_of(name).is_some())
        .map(str::to_owned)
        .collect()
}

/// The purpose of a write of the exactly-once protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Write {
    /// It adds events to a row.
    Plain,
    /// It adds events to a row and moves the row's ids.
    Move,
    /// It writes ids of a row to a page.
    PageOut,
}

impl Write {
    pub(super) fn of(request: &Request) -> Option<Self> {
        let part = request.body.as_object()?;
        if request.operation != "UpdateItem" {
            None
        } else if mentions(part, "UpdateExpression", "ids :ids") {
            Some(Self::PageOut)
        } else if mentions(part, "UpdateExpression", "prev = ") {
            Some(Self::Move)
        } else {
            mentions(part, "UpdateExpression", "cur :new").then_some(Self::Plain)
        }
    }
}

/// The state rows in an answer, in a form that can be changed.
pub(super) fn rows_in<'a>(
    request: &Request,
    answer: &'a mut Value,
) -> Vec<(RowName, &'a mut Map<String, Value>)> {
    let mut items: Vec<&mut Value> = match request.operation.as_str() {
        // After a write that was applied or refused.
        "UpdateItem" => answer
            .as_object_mut()
            .into_iter()
            .flat_map(|answer| answer.iter_mut())
            .filter(|(name, _)| ["Attributes", "Item"].contains(&name.as_str()))
            .map(|(_, item)| item)
            .collect(),
        "GetItem" => answer.get_mut("Item").into_iter().collect(),
        "BatchGetItem" => answer["Responses"]
            .as_object_mut()
            .into_iter()
            .flat_map(|tables| tables.values_mut())
            .filter_map(Value::as_array_mut)
            .flatten()
            .collect(),
        _ => Vec::new(),
    };
    items
        .drain(..)
        .filter_map(|item| Some((row_of(item)?, item.as_object_mut()?)))
        .collect()
}

/// How often a row's ids have moved, read from an item or a value.
pub(super) fn number(value: &Value) -> Option<u64> {
    value["N"].as_str()?.parse().ok()
}

/// The elements of a set, 21 bytes each.
pub(super) fn elements(set: &Value) -> impl Iterator<Item = Vec<u8>> {
    let texts = set["BS"].as_array().into_iter().flatten();
    texts.filter_map(|text| aws_smithy_types::base64::decode(text.as_str()?).ok())
}

/// The second of creation in an element.
pub(super) fn second(element: &[u8]) -> i64 {
    let digits = element.iter().skip(16);
    digits.fold(0, |second, byte| second << 8 | i64::from(*byte))
}

/// The events that each process is working on, by the 16 bytes that represent their ids. Only ids
/// of hex digits are included.
pub(super) type InHand = Arc<Mutex<HashMap<u64, HashSet<Vec<u8>>>>>;

/// The bytes that represent an id of 32 hex digits, with or without dashes.
pub(super) fn id_bytes(event: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = event
        .chars()
        .filter(|digit| *digit != '-')
        .map(|digit| digit.to_digit(16).and_then(|digit| digit.try_into().ok()))
        .collect::<Option<_>>()?;
    let bytes = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]);
    (digits.len() == 32).then(|| bytes.collect())
}

/// What the requests reveal about the store's work.
#[derive(Debug, Default)]
pub(super) struct Wire {
    requests: u64,
    pub(super) oversized: Option<String>,
    counts: HashMap<&'static str, u64>,
    in_hand: InHand,
    /// For each row: when its ids last moved, and the levels of its pages.
    rows: HashMap<RowName, (Duration, BTreeSet<String>)>,
    /// Pages that Time to Live removed.
    expired: HashSet<String>,
}

impl Wire {
    pub(super) fn new(in_hand: InHand) -> Self {
        Self {
            in_hand,
            ..Self::default()
        }
    }

    pub(super) fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.counts.iter().map(|(kind, count)| (*kind, *count))
    }

    fn count(&mut self, kind: &'static str, by: usize) {
        *self.counts.entry(kind).or_default() += by as u64;
    }

    /// Records that Time to Live removed these rows of the marker table.
    pub(super) fn expire(&mut self, pages: Vec<String>) {
        self.count("pages expired", pages.len());
        self.expired.extend(pages);
    }

    /// Records that a request leaves its process.
    pub(super) fn leaves(&mut self, request: &Request) {
        self.requests += 1;
        assert!(self.requests < ENDLESS, "the run does not come to an end");
        for part in crate::rewrite::parts(&request.body) {
            let condition = part["ConditionExpression"].as_str().unwrap_or_default();
            if condition.matches("contains(").count() > 150 || condition.len() > 4096 {
                self.oversized = Some(condition.chars().take(100).collect());
            }
        }
    }

    /// Records that a request was answered at `now`, a time since the start.
    pub(super) fn answered(&mut self, seen: &Answered<'_>, now: Duration) {
        let Answered {
            request, answer, ..
        } = seen;
        let body = &request.body;
        match Write::of(request) {
            Some(Write::PageOut) if seen.is_ok => {
                self.count("pages written", 1);
                let name = body["Key"]["pk"]["S"].as_str().unwrap_or_default();
                let anew = self.expired.remove(name);
                self.count("pages made anew after they expired", anew.into());
                let Some((row, level)) = page_of(name) else {
                    return;
                };
                self.count("pages of undated events", level.is_none().into());
                let moved = self.rows.get(&row).map(|(moved, _)| *moved);
                let late = moved.is_some_and(|moved| seen.left < moved);
                self.count("pages written after the move they were for", late.into());
            }
            Some(Write::Move) if seen.is_ok => {
                self.count("moves of ids", 1);
                let Some(row) = row_of(&body["Key"]) else {
                    return;
                };
                let tops = answer["Attributes"]["tops"]["M"].as_object();
                let levels = tops.into_iter().flat_map(Map::keys).cloned().collect();
                let (moved, before) = self.rows.entry(row).or_default();
                *moved = now;
                let changed = !before.is_empty() && !before.is_superset(&levels);
                before.extend(levels);
                self.count("changes of a row's level", changed.into());
            }
            Some(Write::Plain | Write::Move) if !seen.is_ok => {
                let composed = number(&body["ExpressionAttributeValues"][":per"]);
                let (Some(composed), Some(found)) = (composed, number(&answer["Item"]["per"]))
                else {
                    return;
                };
                match found.saturating_sub(composed) {
                    0 => {}
                    1 => self.count("refusals after one move", 1),
                    _ => self.count("refusals after several moves", 1),
                }
            }
            _ => {}
        }
        if seen.is_ok && !pages_read(request).is_empty() {
            self.count("look-ups in pages", 1);
            let in_hand = lock(&self.in_hand);
            let events = in_hand.get(&seen.process);
            let tables = answer["Responses"].as_object().into_iter().flatten();
            let pages = tables.filter_map(|(_, pages)| pages.as_array()).flatten();
            let ids = pages.flat_map(|page| elements(&page["ids"]));
            let found = ids.filter(|element| {
                events.is_some_and(|events| events.contains(&element[..16.min(element.len())]))
            });
            let found = found.count();
            drop(in_hand);
            self.count("duplicates found in pages", found);
        }
    }
}

#[cfg(test)]
mod tests {
    use murmur_state::PipelineName;

    use super::*;

    #[test]
    fn a_page_is_known_by_its_key() {
        let name = PipelineName::new(NAME).unwrap();
        let key = |level: &str| name.marker("page", &["state", "key:1", "-7", level, "123"]);
        let row = ("key:1".to_owned(), "-7".to_owned());
        assert_eq!(page_of(&key("-3")), Some((row.clone(), Some(-3))));
        assert_eq!(page_of(&key("undated")), Some((row, None)));
        assert_eq!(page_of(&name.marker("claim", &["a"])), None);
    }

    #[test]
    fn an_id_of_hex_digits_has_16_bytes() {
        let plain = id_bytes("0123456789abcdef0123456789abcdef").unwrap();
        assert_eq!(plain[..4], [0x01, 0x23, 0x45, 0x67]);
        assert_eq!(
            id_bytes("01234567-89ab-cdef-0123-456789abcdef"),
            Some(plain)
        );
        assert_eq!(id_bytes("event 5"), None);
    }
}
