//! The rules of the exactly-once protocol, each of which can be left out.
//!
//! Most are left out on the way to DynamoDB, by changing what the store has sent: the product has
//! no switch for them. The rest are numbers that the store takes for tests.

use std::time::Duration;

use murmur_state::PipelineName;
use murmur_state_ddb::Rules;
use serde_json::{Map, Value, json};

use super::pipeline::NAME;
use super::scenario::Scenario;
use crate::cloud::Request;
use crate::rewrite::{mentions, parts, parts_mut, replace};
use crate::time::Time;

/// Longer than any run.
const NEVER: Duration = Duration::from_secs(1_000_000_000);

/// A rule of the exactly-once protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// A write is refused if the row has taken an id lately.
    IdsInCur,
    /// It is refused if the row has taken an id before that.
    IdsInPrev,
    /// A plain write is conditional on the ids having moved on once at the most since they were read.
    PerAsRead,
    /// Ids move on only where nobody else has moved them on meanwhile.
    MovesOnOnce,
    /// What a row forgets is in pages before.
    PagesWritten,
    /// An event is looked up in the pages where it may be.
    PagesConsulted,
    /// The row says how far its pages reach.
    TopsRaised,
    /// All name an event by the same second.
    FlooredSecond,
    /// Pages live longer than their events can come.
    PagesLive,
    /// State rows live longer than their contributions can come.
    RowsLive,
    /// An event too old is not applied.
    TooOld,
    /// An update carries no more ids than a condition can name.
    FewIds,
    /// A refused write is judged by the ids in the row before anything else.
    IdsJudgedFirst,
}

/// Changes requests on their way.
pub(super) type Rewriter = Box<dyn Fn(&mut Request) + Send + Sync>;

/// What a rewriter knows of the process it is in.
pub(super) struct Interference {
    pub(super) time: Time,
    pub(super) skew: i64,
    /// How many processes were started before.
    pub(super) number: u64,
    pub(super) state: String,
    pub(super) markers: String,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::IdsInCur,
        Self::IdsInPrev,
        Self::PerAsRead,
        Self::MovesOnOnce,
        Self::PagesWritten,
        Self::PagesConsulted,
        Self::TopsRaised,
        Self::FlooredSecond,
        Self::PagesLive,
        Self::RowsLive,
        Self::TooOld,
        Self::FewIds,
        Self::IdsJudgedFirst,
    ];

    /// As it is written on a command line.
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

    /// Changes the numbers of a scenario, where the rule is one.
    pub(super) fn leave_out(self, scenario: &mut Scenario) {
        let rules = &mut scenario.rules;
        match self {
            Self::PagesLive => rules.page_life = Duration::from_secs(3600),
            Self::TooOld => rules.too_old = NEVER,
            Self::FewIds => rules.ids_per_update = 1000,
            _ => {}
        }
    }

    /// What leaves the rule out on the way to DynamoDB, if it is none of numbers.
    pub(super) fn rewriter(self, own: Interference) -> Option<Rewriter> {
        let condition = |from: &'static str, to: &'static str| -> Option<Rewriter> {
            Some(Box::new(move |request| {
                for part in parts_mut(&mut request.body) {
                    replace(part, "ConditionExpression", from, to);
                }
            }))
        };
        match self {
            Self::IdsInCur => condition("contains(cur,", "contains(zzz,"),
            Self::IdsInPrev => condition("contains(prev,", "contains(zzz,"),
            Self::PerAsRead => of_plain(|part| {
                for (from, to) in [
                    ("(per BETWEEN :per AND :after", "(attribute_exists(per)"),
                    ("per BETWEEN :per AND :after", "attribute_exists(per)"),
                ] {
                    replace(part, "ConditionExpression", from, to);
                }
            }),
            Self::RowsLive => Some(Box::new(move |request| {
                let soon = own.time.now().as_secs() + 3600;
                for part in parts_mut(&mut request.body) {
                    let of_state = part.get("TableName") == Some(&json!(own.state));
                    if let Some(ttl) = part
                        .get_mut("ExpressionAttributeValues")
                        .and_then(|values| values.pointer_mut("/:ttl/N"))
                        && of_state
                    {
                        *ttl = json!(soon.to_string());
                    }
                }
            })),
            Self::IdsJudgedFirst => of_plain(|part| {
                part.remove("ReturnValuesOnConditionCheckFailure");
            }),
            _ => None,
        }
    }
}

/// A rewriter of the plain writes of exactly-once: to rows that are not hot.
fn of_plain(change: impl Fn(&mut Map<String, Value>) + Send + Sync + 'static) -> Option<Rewriter> {
    Some(Box::new(move |request| {
        if let Some(part) = request.body.as_object_mut()
            && request.operation == "UpdateItem"
            && mentions(part, "UpdateExpression", ":new")
        {
            change(part);
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_named_as_on_a_command_line() {
        assert_eq!(Rule::PerAsRead.name(), "per-as-read");
        let names: std::collections::HashSet<String> = Rule::ALL.map(Rule::name).into();
        assert_eq!(names.len(), Rule::ALL.len());
    }
}
