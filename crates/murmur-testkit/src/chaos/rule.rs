//! The rules of the exactly-once protocol. Each rule can be left out.
//!
//! The product has no switch for its rules. Most are left out between the store and DynamoDB, by
//! changing the requests that the store sends and the answers it receives. The rest are numbers
//! that the store accepts for tests, or inputs of a process: its records and its clock.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::scenario::Scenario;
use super::wire::{InHand, RowName, Write, elements, number, page_of, pages_read, row_of};
use super::wire::{rows_in, second};
use crate::cloud::{Process, Request};
use crate::rewrite::{mentions, replace};
use crate::runs::lock;
use crate::time::Time;

/// Longer than any run.
const NEVER: Duration = Duration::from_secs(1_000_000_000);

/// A rule of the exactly-once protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// A write is refused if one of its ids is in the row's `cur`: the row took it since its ids
    /// last moved.
    IdsInCur,
    /// A write is refused if one of its ids is in the row's `prev`: the row took it before its ids
    /// last moved.
    IdsInPrev,
    /// A plain write is refused if the row's ids have moved since the process last saw the row.
    PerAsRead,
    /// The ids may have moved once since then, but not twice.
    PerOnceAtMost,
    /// A move is refused if the ids have already moved since the process last saw the row.
    MovesOnce,
    /// A move happens inside the row: the row's own `cur` becomes `prev`, not a copy that was read
    /// earlier.
    MovesInPlace,
    /// Before an event is written, it is looked up in `prev` of the row as the process knows it.
    PrevChecked,
    /// The event is looked up again in `prev` of every row that a write returns.
    PrevCheckedAgain,
    /// What a process knows of a row comes from a single answer, not from computing the effect of
    /// its own move.
    ImageOfOneAnswer,
    /// Ids that a row is about to drop are first written to pages.
    PagesWritten,
    /// A row drops ids only after all of these pages are acknowledged.
    PagesAcknowledged,
    /// An event is looked up in every page that could contain it.
    PagesConsulted,
    /// The lookup uses a consistent read.
    PagesConsistent,
    /// Pages are read after the row. An earlier state of a page proves nothing.
    PagesReadAfterRow,
    /// When the ids have moved more than once, the event is looked up again.
    LookedUpAgain,
    /// The row records which pages it has.
    TopsRaised,
    /// That record never decreases.
    TopsNeverLowered,
    /// The record is kept for each level.
    TopsByLevel,
    /// The record says whether there are pages of events without a creation time.
    TopsUndated,
    /// All processes derive the same second for an event.
    SameSecond,
    /// A page outlives every delivery of its events.
    PagesLive,
    /// An event is not written if it is so old that its page may have expired.
    TooOld,
    /// The age of an event is checked after its lookup.
    TooOldAfterLookUp,
    /// An event without a creation time is given up one hour after its first delivery.
    UndatedGivenUp,
    /// A state row outlives every contribution to it.
    RowsLive,
    /// Nothing is added to a row during the two hours before it may be removed.
    NothingBeforeTtl,
    /// An update carries no more ids than one condition can name.
    FewIds,
    /// After a refused write, the ids of the returned row are checked first, and its value only
    /// then.
    IdsJudgedFirst,
    /// A value that was read is replaced only if it is still in the row.
    VersionAsRead,
    /// The value is replaced only if the ids have not moved either.
    PerAsReadInSwaps,
    /// A request is sent once.
    SentOnce,
}

/// What is known about the process in which a rule is left out.
pub(super) struct Interference {
    pub(super) time: Time,
    pub(super) state: String,
    /// The events that each process is working on.
    pub(super) in_hand: InHand,
    /// The number of invocations that the process has started.
    pub(super) turn: Arc<AtomicU64>,
}

impl Rule {
    /// All rules.
    pub const ALL: [Self; 31] = [
        Self::IdsInCur,
        Self::IdsInPrev,
        Self::PerAsRead,
        Self::PerOnceAtMost,
        Self::MovesOnce,
        Self::MovesInPlace,
        Self::PrevChecked,
        Self::PrevCheckedAgain,
        Self::ImageOfOneAnswer,
        Self::PagesWritten,
        Self::PagesAcknowledged,
        Self::PagesConsulted,
        Self::PagesConsistent,
        Self::PagesReadAfterRow,
        Self::LookedUpAgain,
        Self::TopsRaised,
        Self::TopsNeverLowered,
        Self::TopsByLevel,
        Self::TopsUndated,
        Self::SameSecond,
        Self::PagesLive,
        Self::TooOld,
        Self::TooOldAfterLookUp,
        Self::UndatedGivenUp,
        Self::RowsLive,
        Self::NothingBeforeTtl,
        Self::FewIds,
        Self::IdsJudgedFirst,
        Self::VersionAsRead,
        Self::PerAsReadInSwaps,
        Self::SentOnce,
    ];

    /// The name on the command line.
    pub fn name(self) -> String {
        let mut name = String::new();
        for letter in format!("{self:?}").chars() {
            if letter.is_uppercase() && !name.is_empty() {
                name.push('-');
            }
            name.extend(letter.to_lowercase());
        }
        name
    }

    /// Changes the numbers of a scenario, if the rule is one of them.
    pub(super) fn leave_out(self, scenario: &mut Scenario) {
        let rules = &mut scenario.rules;
        match self {
            Self::PagesLive => rules.page_life = Duration::from_secs(3600),
            Self::TooOld => rules.too_old = NEVER,
            Self::UndatedGivenUp => rules.undated = NEVER,
            Self::NothingBeforeTtl => rules.before_ttl = Duration::ZERO,
            Self::FewIds => rules.ids_per_update = 1000,
            _ => {}
        }
    }

    /// Changes the process's requests and answers, if the rule can be left out there.
    pub(super) fn interfere(self, process: &Process, own: Interference) {
        match self {
            Self::IdsInCur => {
                in_writes(process, |_, part| {
                    condition(part, "contains(cur,", "contains(zzz,")
                });
            }
            Self::IdsInPrev => {
                in_writes(process, |_, part| {
                    condition(part, "contains(prev,", "contains(zzz,")
                });
            }
            Self::PerAsRead => in_writes(process, |write, part| {
                if write == Write::Plain {
                    condition(part, "per BETWEEN :per AND :after", "per >= :per");
                    values(part).remove(":after");
                }
            }),
            Self::PerOnceAtMost => in_writes(process, |_, part| {
                if let Some(after) = values(part).get_mut(":after") {
                    let twice = number(after).unwrap_or_default() + 1;
                    *after = json!({ "N": twice.to_string() });
                }
            }),
            Self::MovesOnce => in_writes(process, |write, part| {
                if write == Write::Move {
                    condition(part, "per = :per", "per >= :per");
                }
            }),
            Self::PerAsReadInSwaps => in_writes(process, |write, part| {
                if write == Write::Plain && mentions(part, "UpdateExpression", "ver = :next") {
                    condition(part, "per = :per", "per >= :per");
                }
            }),
            Self::VersionAsRead => in_writes(process, |_, part| {
                condition(part, "ver = :ver AND tok = :known", "ver >= :zero");
                let values = values(part);
                if values.remove(":ver").is_some() {
                    values.remove(":known");
                    values.insert(":zero".to_owned(), json!({ "N": "0" }));
                }
            }),
            Self::IdsJudgedFirst => in_writes(process, |write, part| {
                if write == Write::Plain {
                    part.remove("ReturnValuesOnConditionCheckFailure");
                }
            }),
            Self::TopsRaised => in_writes(process, |_, part| {
                replace(part, "UpdateExpression", ", tops = :tops", "");
                values(part).remove(":tops");
            }),
            Self::TopsByLevel => in_tops(process, |tops| {
                let levels = std::mem::take(tops).into_iter();
                tops.extend(levels.map(|(level, second)| {
                    let coarser = level
                        .parse()
                        .map(|level: i64| (level + 1).min(24).to_string());
                    (coarser.unwrap_or(level), second)
                }));
            }),
            Self::TopsUndated => in_tops(process, |tops| {
                tops.remove("undated");
            }),
            Self::TopsNeverLowered => tops_of_last_pages(process),
            Self::PagesWritten => in_writes(process, |write, part| {
                if write == Write::PageOut {
                    let other = aws_smithy_types::base64::encode([0xff; 21]);
                    values(part).insert(":ids".to_owned(), json!({ "BS": [other] }));
                }
            }),
            Self::PagesAcknowledged => process.rewrite_answers(|request, answer| {
                let unanswered = answer.is_none() && Write::of(request) == Some(Write::PageOut);
                let ids = &request.body["ExpressionAttributeValues"][":ids"];
                unanswered.then(|| json!({ "Attributes": { "ids": ids } }))
            }),
            Self::PagesConsulted => process.rewrite(|request| redirect(request, |_| true)),
            Self::PagesConsistent => process.rewrite(|request| {
                if !pages_read(request).is_empty()
                    && let Some(tables) = request.body["RequestItems"].as_object_mut()
                {
                    for part in tables.values_mut().filter_map(Value::as_object_mut) {
                        part.remove("ConsistentRead");
                    }
                }
            }),
            Self::PagesReadAfterRow => pages_remembered(process),
            Self::LookedUpAgain => looked_up_once(process, own),
            Self::MovesInPlace => moves_by_copy(process),
            Self::PrevChecked => {
                hide_in_prev(process, own, |request| request.operation != "UpdateItem")
            }
            Self::PrevCheckedAgain => {
                hide_in_prev(process, own, |request| request.operation == "UpdateItem");
            }
            Self::ImageOfOneAnswer => computed_prev(process),
            Self::RowsLive => in_writes(process, move |_, part| {
                let soon = own.time.now().as_secs() + 3600;
                let of_state = part.get("TableName") == Some(&json!(own.state));
                if let Some(ttl) = values(part).get_mut(":ttl").filter(|_| of_state) {
                    *ttl = json!({ "N": soon.to_string() });
                }
            }),
            Self::SentOnce => process.send_writes_twice(),
            Self::SameSecond
            | Self::PagesLive
            | Self::TooOld
            | Self::TooOldAfterLookUp
            | Self::UndatedGivenUp
            | Self::NothingBeforeTtl
            | Self::FewIds => {}
        }
    }
}

/// Changes the writes of exactly-once delivery.
fn in_writes(
    process: &Process,
    change: impl Fn(Write, &mut Map<String, Value>) + Send + Sync + 'static,
) {
    process.rewrite(move |request| {
        if let Some(write) = Write::of(request)
            && let Some(part) = request.body.as_object_mut()
        {
            change(write, part);
        }
    });
}

fn condition(part: &mut Map<String, Value>, from: &str, to: &str) {
    replace(part, "ConditionExpression", from, to);
}

/// The values of a write's expressions. Every write has some.
fn values(part: &mut Map<String, Value>) -> &mut Map<String, Value> {
    let values = part.entry("ExpressionAttributeValues");
    let values = values.or_insert_with(|| json!({}));
    values
        .as_object_mut()
        .unwrap_or_else(|| panic!("values are no map"))
}

/// Changes what a row is to record about its pages.
fn in_tops(process: &Process, change: impl Fn(&mut Map<String, Value>) + Send + Sync + 'static) {
    in_writes(process, move |_, part| {
        let tops = values(part).get_mut(":tops");
        let tops = tops.and_then(|tops| tops["M"].as_object_mut());
        if let Some(tops) = tops {
            change(tops);
        }
    });
}

/// Redirects lookups to keys that do not exist, for the rows that `wanted` selects.
fn redirect(request: &mut Request, wanted: impl Fn(&RowName) -> bool) {
    if request.operation != "BatchGetItem" {
        return;
    }
    let tables = request.body["RequestItems"].as_object_mut();
    for (_, part) in tables.into_iter().flatten() {
        for key in part["Keys"].as_array_mut().into_iter().flatten() {
            let Some(name) = key["pk"]["S"].as_str() else {
                continue;
            };
            if page_of(name).is_some_and(|(row, _)| wanted(&row)) {
                key["pk"]["S"] = json!(format!("nothing {name}"));
            }
        }
    }
}

/// The row records only the pages that the last move wrote, and drops its earlier record.
fn tops_of_last_pages(process: &Process) {
    let written: Mutex<HashMap<RowName, BTreeMap<String, i64>>> = Mutex::default();
    in_writes(process, move |write, part| match write {
        Write::PageOut => {
            let name = part["Key"]["pk"]["S"].as_str().unwrap_or_default();
            let Some((row, level)) = page_of(name) else {
                return;
            };
            let level = level.map_or("undated".to_owned(), |level| level.to_string());
            let seconds = elements(&values(part)[":ids"]).map(|element| second(&element));
            let last = seconds.max().unwrap_or_default();
            let mut written = lock(&written);
            let top = written.entry(row).or_default().entry(level);
            let top = top.or_insert(last);
            *top = last.max(*top);
        }
        Write::Move => {
            let row = row_of(&part["Key"]).unwrap_or_default();
            let tops = lock(&written).remove(&row).unwrap_or_default().into_iter();
            let tops: Map<String, Value> = tops
                .map(|(level, second)| (level, json!({ "N": second.to_string() })))
                .collect();
            values(part).insert(":tops".to_owned(), json!({ "M": tops }));
        }
        Write::Plain => {}
    });
}

/// A page is read once. Later reads return its first state.
fn pages_remembered(process: &Process) {
    let pages: Mutex<HashMap<String, Option<Value>>> = Mutex::default();
    process.rewrite_answers(move |request, answer| {
        let names = pages_read(request);
        let tables = answer.and_then(|answer| answer["Responses"].as_object_mut());
        for (_, found) in tables.into_iter().flatten() {
            let Some(found) = found.as_array_mut() else {
                continue;
            };
            let mut pages = lock(&pages);
            for name in &names {
                let at = found.iter().position(|page| page["pk"]["S"] == json!(name));
                let now = at.map(|at| found.swap_remove(at));
                let then = pages.entry(name.clone()).or_insert(now);
                found.extend(then.clone());
            }
        }
        None
    });
}

/// After a refusal because the ids moved more than once, events of the row are not looked up again
/// in the same invocation.
fn looked_up_once(process: &Process, own: Interference) {
    let refused: Arc<Mutex<HashSet<(RowName, u64)>>> = Arc::default();
    let (noted, turn) = (Arc::clone(&refused), Arc::clone(&own.turn));
    process.rewrite_answers(move |request, answer| {
        let composed = number(&request.body["ExpressionAttributeValues"][":per"]);
        let found = answer.and_then(|answer| number(&answer["Item"]["per"]));
        if let (Some(composed), Some(found), Some(row)) =
            (composed, found, row_of(&request.body["Key"]))
            && found > composed + 1
        {
            lock(&noted).insert((row, turn.load(Ordering::Relaxed)));
        }
        None
    });
    process.rewrite(move |request| {
        let (refused, turn) = (lock(&refused), own.turn.load(Ordering::Relaxed));
        redirect(request, |row| refused.contains(&(row.clone(), turn)));
    });
}

/// `prev` becomes the `cur` that the process knew.
fn moves_by_copy(process: &Process) {
    let copies: Arc<Mutex<HashMap<RowName, Vec<Value>>>> = Arc::default();
    let known = Arc::clone(&copies);
    process.rewrite_answers(move |request, answer| {
        let answer = answer?;
        let mut copies = lock(&known);
        // Ids that a write added without reading the row back are known, too.
        let added = &request.body["ExpressionAttributeValues"][":new"]["BS"];
        if Write::of(request) == Some(Write::Plain)
            && answer.get("Item").is_none()
            && answer.get("Attributes").is_none()
            && let (Some(row), Some(added)) = (row_of(&request.body["Key"]), added.as_array())
        {
            copies.entry(row).or_default().extend(added.iter().cloned());
        }
        for (row, item) in rows_in(request, answer) {
            let cur = item.get("cur").and_then(|cur| cur["BS"].as_array());
            copies.insert(row, cur.cloned().unwrap_or_default());
        }
        None
    });
    in_writes(process, move |write, part| {
        let row = row_of(&part["Key"]).unwrap_or_default();
        let copy = lock(&copies).get(&row).cloned().unwrap_or_default();
        if write == Write::Move && !copy.is_empty() {
            replace(part, "UpdateExpression", "prev = cur", "prev = :copy");
            values(part).insert(":copy".to_owned(), json!({ "BS": copy }));
        }
    });
}

/// Hides the events that the process is working on from `prev` of the rows in the answers that `of`
/// selects.
fn hide_in_prev(
    process: &Process,
    own: Interference,
    of: impl Fn(&Request) -> bool + Send + Sync + 'static,
) {
    let number = process.number();
    process.rewrite_answers(move |request, answer| {
        let answer = answer.filter(|_| of(request))?;
        let in_hand = lock(&own.in_hand);
        let events = in_hand.get(&number)?;
        for (_, item) in rows_in(request, answer) {
            let Some(prev) = item.get_mut("prev") else {
                continue;
            };
            let left: Vec<String> = elements(prev)
                .filter(|element| !events.contains(&element[..16.min(element.len())]))
                .map(aws_smithy_types::base64::encode)
                .collect();
            match left.is_empty() {
                true => drop(item.remove("prev")),
                false => *prev = json!({ "BS": left }),
            }
        }
        None
    });
}

/// After a move, `prev` is assumed to be the `cur` that the process knew before.
fn computed_prev(process: &Process) {
    let known: Mutex<HashMap<RowName, (u64, Value)>> = Mutex::default();
    process.rewrite_answers(move |request, answer| {
        for (row, item) in rows_in(request, answer?) {
            let Some(per) = item.get("per").and_then(number) else {
                continue;
            };
            let cur = item.get("cur").cloned().unwrap_or_default();
            let before = lock(&known).insert(row, (per, cur));
            if let Some((before, cur)) = before
                && per == before + 1
                && !cur.is_null()
            {
                item.insert("prev".to_owned(), cur);
            }
        }
        None
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_named_as_on_a_command_line() {
        assert_eq!(Rule::PerAsRead.name(), "per-as-read");
        let names: HashSet<String> = Rule::ALL.map(Rule::name).into();
        assert_eq!(names.len(), Rule::ALL.len());
    }
}
