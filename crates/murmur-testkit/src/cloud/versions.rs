//! Earlier states of items, for stale reads.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use fastrand::Rng;
use serde_json::Value;

use super::items::Touch;

/// The state of each item before each of its recent writes; null where the item was absent.
#[derive(Debug, Default)]
pub(super) struct Versions(HashMap<String, VecDeque<(Duration, Value)>>);

impl Versions {
    /// Records that `before` was replaced at `at`, a time since the start. Drops states that were
    /// replaced more than `kept` ago.
    pub(super) fn replace(&mut self, touch: &Touch, before: Value, at: Duration, kept: Duration) {
        let versions = self.0.entry(touch.id()).or_default();
        while versions.front().is_some_and(|(then, _)| *then + kept < at) {
            versions.pop_front();
        }
        versions.push_back((at, before));
    }

    /// The state of the item at `when`, if it was written since.
    fn at(&self, touch: &Touch, when: Duration) -> Option<&Value> {
        let versions = self.0.get(&touch.id())?;
        let next = versions.iter().find(|(replaced, _)| *replaced > when);
        next.map(|(_, before)| before)
    }

    /// Replaces the items in the answer to a read by states of up to `age` before `now`; `dice`
    /// decides how old each one is. Returns whether any state differed. Consistent reads and reads
    /// of single attributes are not changed.
    pub(super) fn age(
        &self,
        operation: &str,
        body: &Value,
        answer: &mut Value,
        (now, age): (Duration, Duration),
        dice: &mut Rng,
    ) -> bool {
        let mut older = |part: &Value, table: &str, key: &Value| {
            let weak = part["ConsistentRead"] != true && part.get("ProjectionExpression").is_none();
            let key = key.as_object().filter(|_| weak)?.clone();
            let touch = Touch {
                table: table.to_owned(),
                key,
                put: None,
            };
            let when = now.saturating_sub(age.mul_f64(dice.f64()));
            let found = self.at(&touch, when)?.clone();
            Some((touch, found))
        };
        let mut any = false;
        match operation {
            "GetItem" => {
                let table = body["TableName"].as_str().unwrap_or_default();
                if let Some((_, found)) = older(body, table, &body["Key"]) {
                    any = true;
                    if let Some(answer) = answer.as_object_mut() {
                        answer.remove("Item");
                        if !found.is_null() {
                            answer.insert("Item".to_owned(), found);
                        }
                    }
                }
            }
            "BatchGetItem" => {
                let tables = body["RequestItems"].as_object();
                for (table, part) in tables.into_iter().flatten() {
                    for key in part["Keys"].as_array().into_iter().flatten() {
                        let Some((touch, found)) = older(part, table, key) else {
                            continue;
                        };
                        if let Some(items) = answer["Responses"][table].as_array_mut() {
                            any = true;
                            items.retain(|item| !touch.is(item));
                            items.extend(Some(found).filter(|found| !found.is_null()));
                        }
                    }
                }
            }
            _ => {}
        }
        any
    }
}
