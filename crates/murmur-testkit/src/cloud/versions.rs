//! What items were a while ago, for reads that need not be up to date.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use fastrand::Rng;
use serde_json::Value;

use super::items::Touch;

/// For each item what it was before each of its last writes, null where there was none.
#[derive(Debug, Default)]
pub(super) struct Versions(HashMap<String, VecDeque<(Duration, Value)>>);

impl Versions {
    /// `before` was replaced `at` that time since the start. What was replaced longer than `kept`
    /// ago is forgotten.
    pub(super) fn replace(&mut self, touch: &Touch, before: Value, at: Duration, kept: Duration) {
        let versions = self.0.entry(touch.id()).or_default();
        while versions.front().is_some_and(|(then, _)| *then + kept < at) {
            versions.pop_front();
        }
        versions.push_back((at, before));
    }

    /// What the item was at `when`, if it was written since.
    fn at(&self, touch: &Touch, when: Duration) -> Option<&Value> {
        let versions = self.0.get(&touch.id())?;
        let next = versions.iter().find(|(replaced, _)| *replaced > when);
        next.map(|(_, before)| before)
    }

    /// Puts what items were up to `age` before `now` into the answer to a read, each as old as
    /// `dice` say; whether any was another then. Consistent reads are left alone, and those of
    /// single attributes.
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
