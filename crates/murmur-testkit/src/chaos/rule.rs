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
    /// A plain write is refused if the row has taken an id in this period.
    IdsInCur,
    /// It is refused if the row has taken an id in the period before.
    IdsInPrev,
    /// It is conditional on the period that was read.
    PeriodAsRead,
    /// The period of a row only grows, whatever the writer's clock says.
    PeriodOnlyGrows,
    /// The shift to a new period is made by the update itself, not from a copy that was read.
    ShiftInPlace,
    /// What was read as absent is conditioned as absent.
    AbsentAsRead,
    /// A plain write is conditional on no flag.
    NoFlagInPlain,
    /// A hot write is conditional on the flag that was read.
    FlagInHot,
    /// The turn to hot is conditional on both generations of ids as they were read.
    TurnAsRead,
    /// It moves the ids into the frozen item.
    FrozenWritten,
    /// Who writes hot leaves out the ids of the frozen item.
    FrozenConsulted,
    /// An epoch was never used before.
    EpochNew,
    /// Marker rows refuse an id that they have.
    IdsInMarkers,
    /// All name the marker row of an event alike.
    MarkerByFlooredSecond,
    /// Marker rows live longer than their events can come.
    MarkersLive,
    /// State rows live longer than their contributions can come.
    RowsLive,
    /// The turn back to cold is conditional on the last hot write that was read.
    CoolAsRead,
    /// A row turns back to cold a horizon after its last hot write at the earliest.
    CoolLate,
    /// An event too old is not applied.
    TooOld,
    /// An attempt composed long ago is composed anew.
    ComposedAnew,
    /// An update carries no more ids than a condition can name.
    FewIds,
    /// A refused write is judged by the ids in the row before anything else.
    IdsJudgedFirst,
    /// Every transaction has a token of its own.
    TokensRandom,
    /// The horizon spans the stream's retention.
    HorizonSpansRetention,
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
    pub const ALL: [Self; 24] = [
        Self::IdsInCur,
        Self::IdsInPrev,
        Self::PeriodAsRead,
        Self::PeriodOnlyGrows,
        Self::ShiftInPlace,
        Self::AbsentAsRead,
        Self::NoFlagInPlain,
        Self::FlagInHot,
        Self::TurnAsRead,
        Self::FrozenWritten,
        Self::FrozenConsulted,
        Self::EpochNew,
        Self::IdsInMarkers,
        Self::MarkerByFlooredSecond,
        Self::MarkersLive,
        Self::RowsLive,
        Self::CoolAsRead,
        Self::CoolLate,
        Self::TooOld,
        Self::ComposedAnew,
        Self::FewIds,
        Self::IdsJudgedFirst,
        Self::TokensRandom,
        Self::HorizonSpansRetention,
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
            Self::MarkersLive => rules.marker_life = Duration::from_secs(3600),
            Self::CoolLate => rules.cool_after = Duration::from_secs(60),
            Self::TooOld => rules.too_old = NEVER,
            Self::ComposedAnew => rules.recompose = NEVER,
            Self::FewIds => rules.ids_per_update = 1000,
            Self::HorizonSpansRetention => {
                let horizon = Duration::from_secs(3600);
                *rules = Rules {
                    horizon,
                    cool_after: horizon,
                    marker_life: 2 * horizon,
                    ..rules.clone()
                };
            }
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
            Self::IdsInMarkers => condition("contains(ids,", "contains(zzz,"),
            Self::NoFlagInPlain => of_plain(|part| {
                let any = "(attribute_not_exists(hot) OR attribute_exists(hot))";
                replace(
                    part,
                    "ConditionExpression",
                    "attribute_not_exists(hot)",
                    any,
                );
            }),
            Self::PeriodAsRead => of_plain(|part| {
                replace(part, "ConditionExpression", "per = :", "pk <> :");
            }),
            Self::PeriodOnlyGrows => {
                let period = period_of(own);
                of_plain(move |part| shift_to(part, period()))
            }
            Self::ShiftInPlace => None,
            Self::AbsentAsRead => of_plain(|part| {
                let any = "(attribute_not_exists(cur) OR attribute_exists(cur))";
                replace(
                    part,
                    "ConditionExpression",
                    "attribute_not_exists(cur)",
                    any,
                );
            }),
            Self::FlagInHot => of_hot_write(|part| {
                let any = "(attribute_not_exists(hot) OR hot = :epoch OR hot <> :epoch)";
                replace(part, "ConditionExpression", "hot = :epoch", any);
            }),
            Self::TurnAsRead => of_turn(|part| {
                for (as_read, any) in [
                    (
                        "cur = :cur",
                        "(attribute_not_exists(cur) OR cur = :cur OR cur <> :cur)",
                    ),
                    (
                        "prev = :prev",
                        "(attribute_not_exists(prev) OR prev = :prev OR prev <> :prev)",
                    ),
                    ("attribute_not_exists(cur)", "attribute_exists(pk)"),
                    ("attribute_not_exists(prev)", "attribute_exists(pk)"),
                ] {
                    replace(part, "ConditionExpression", as_read, any);
                }
            }),
            Self::FrozenWritten => Some(Box::new(|request| {
                for part in parts_mut(&mut request.body) {
                    if let Some(item) = part.get_mut("Item").and_then(Value::as_object_mut) {
                        item.remove("cur");
                        item.remove("prev");
                    }
                }
            })),
            Self::FrozenConsulted => Some(Box::new(|request| {
                if request.operation == "GetItem"
                    && let Some(name) = request.body.pointer_mut("/Key/pk/S")
                    && name.as_str().is_some_and(|name| name.contains("/frozen/"))
                {
                    *name = json!("nothing");
                }
            })),
            Self::EpochNew => Some(Box::new(move |request| one_epoch(request, &own))),
            Self::MarkerByFlooredSecond if own.number % 2 == 1 => Some(Box::new(move |request| {
                for part in parts_mut(&mut request.body) {
                    let of_markers = part.get("TableName") == Some(&json!(own.markers));
                    if let Some(name) = part.get_mut("Key").and_then(|key| key.pointer_mut("/pk/S"))
                        && of_markers
                        && let Some(text) = name.as_str().filter(|name| name.contains("/second/"))
                    {
                        *name = json!(format!("{text}.5"));
                    }
                }
            })),
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
            Self::CoolAsRead => {
                condition("hot_at = :stamp", "(hot_at = :stamp OR hot_at <> :stamp)")
            }
            Self::IdsJudgedFirst => of_plain(|part| {
                part.remove("ReturnValuesOnConditionCheckFailure");
            }),
            Self::TokensRandom => Some(Box::new(|request| {
                if let Some(token) = request.body.get_mut("ClientRequestToken") {
                    *token = json!("always-the-same");
                }
            })),
            Self::MarkerByFlooredSecond
            | Self::MarkersLive
            | Self::CoolLate
            | Self::TooOld
            | Self::ComposedAnew
            | Self::FewIds
            | Self::HorizonSpansRetention => None,
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

/// A rewriter of the row's part of hot writes.
fn of_hot_write(
    change: impl Fn(&mut Map<String, Value>) + Send + Sync + 'static,
) -> Option<Rewriter> {
    Some(Box::new(move |request| {
        for part in parts_mut(&mut request.body) {
            if mentions(part, "ConditionExpression", "hot = :epoch")
                && !mentions(part, "ConditionExpression", "hot_at = :stamp")
            {
                change(part);
            }
        }
    }))
}

/// A rewriter of the row's part of turns to hot.
fn of_turn(change: impl Fn(&mut Map<String, Value>) + Send + Sync + 'static) -> Option<Rewriter> {
    Some(Box::new(move |request| {
        for part in parts_mut(&mut request.body) {
            if mentions(part, "UpdateExpression", "hot = :epoch") {
                change(part);
            }
        }
    }))
}

/// The period by a process's own clock.
fn period_of(own: Interference) -> impl Fn() -> i64 + Send + Sync {
    let length = Rules::default().horizon.as_secs() as i64;
    move || (own.time.now().as_secs() + own.skew).div_euclid(length)
}

/// Makes a write to a row of a later period shift it back to this one.
fn shift_to(part: &mut Map<String, Value>, period: i64) {
    let of_row = part
        .get("ExpressionAttributeValues")
        .and_then(|values| values.pointer("/:per/N"))
        .and_then(Value::as_str)
        .and_then(|per| per.parse::<i64>().ok());
    let Some(of_row) = of_row.filter(|per| *per > period) else {
        return;
    };
    for (from, to) in [
        ("ADD cur :new, ", "ADD "),
        ("ADD cur :new ", ""),
        (", cur :new", ""),
        ("SET ", "SET prev = cur, cur = :new, "),
    ] {
        replace(part, "UpdateExpression", from, to);
    }
    let before = "(attribute_not_exists(pk) OR per = :per)";
    replace(part, "ConditionExpression", before, "per = :later");
    if let Some(values) = part
        .get_mut("ExpressionAttributeValues")
        .and_then(Value::as_object_mut)
    {
        values.insert(":per".into(), json!({ "N": period.to_string() }));
        values.insert(":later".into(), json!({ "N": of_row.to_string() }));
    }
}

/// Every turn to hot uses the same epoch, and so the same frozen item.
fn one_epoch(request: &mut Request, own: &Interference) {
    const EPOCH: &str = "once-and-again";
    let turns = parts(&request.body).find_map(|part| {
        let update = part["UpdateExpression"].as_str()?;
        let epoch = part
            .pointer("/ExpressionAttributeValues/:epoch/S")?
            .as_str()?;
        let key = part.get("Key")?;
        let entity = key.pointer("/pk/S")?.as_str()?.to_owned();
        let bucket = key.pointer("/sk/N")?.as_str()?.to_owned();
        let epoch = epoch.to_owned();
        update
            .contains("hot = :epoch")
            .then_some((epoch, entity, bucket))
    });
    let name = PipelineName::new(NAME);
    if let Some((_, entity, bucket)) = &turns
        && let Ok(name) = name
    {
        let frozen = name.marker("frozen", &[&own.state, entity, bucket, EPOCH]);
        for part in parts_mut(&mut request.body) {
            if let Some(pk) = part
                .get_mut("Item")
                .and_then(|item| item.pointer_mut("/pk/S"))
            {
                *pk = json!(frozen);
                part.remove("ConditionExpression");
            }
        }
    }
    for part in parts_mut(&mut request.body) {
        if let Some(epoch) = part
            .get_mut("ExpressionAttributeValues")
            .and_then(|values| values.pointer_mut("/:epoch/S"))
        {
            *epoch = json!(EPOCH);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_named_as_on_a_command_line() {
        assert_eq!(Rule::TurnAsRead.name(), "turn-as-read");
        let names: std::collections::HashSet<String> = Rule::ALL.map(Rule::name).into();
        assert_eq!(names.len(), Rule::ALL.len());
    }
}
