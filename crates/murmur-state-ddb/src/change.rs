use std::borrow::Cow;
use std::collections::HashMap;

use aws_sdk_dynamodb::error::BuildError;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::{
    AttributeValue, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update,
};

use crate::attribute::{DEFINITION, Item, REGION, STREAM, TTL, number};

/// One conditional update of one item, under construction. It is sent alone or in a transaction.
#[derive(Debug, Default)]
pub(crate) struct Change {
    set: Vec<&'static str>,
    add: Vec<&'static str>,
    remove: Vec<&'static str>,
    conditions: Vec<Cow<'static, str>>,
    values: HashMap<String, AttributeValue>,
}

impl Change {
    pub(crate) fn set(mut self, clause: &'static str) -> Self {
        self.set.push(clause);
        self
    }

    pub(crate) fn add(mut self, clause: &'static str) -> Self {
        self.add.push(clause);
        self
    }

    pub(crate) fn remove(mut self, attribute: &'static str) -> Self {
        self.remove.push(attribute);
        self
    }

    /// Adds a condition. All conditions must hold.
    pub(crate) fn only_if(mut self, condition: impl Into<Cow<'static, str>>) -> Self {
        self.conditions.push(condition.into());
        self
    }

    pub(crate) fn value(mut self, name: impl Into<String>, value: AttributeValue) -> Self {
        self.values.insert(name.into(), value);
        self
    }

    /// Sets when the item may be removed. `None` removes the item's `ttl`, rather than leaving it.
    pub(crate) fn ttl(self, ttl: Option<i64>) -> Self {
        match ttl {
            Some(ttl) => self.set("#ttl = :ttl").value(":ttl", number(ttl)),
            None => self.remove("#ttl"),
        }
    }

    fn update(&self) -> String {
        let mut update = String::new();
        for (word, clauses) in [
            ("SET", &self.set),
            ("ADD", &self.add),
            ("REMOVE", &self.remove),
        ] {
            if !clauses.is_empty() {
                update.push_str(word);
                update.push(' ');
                update.push_str(&clauses.join(", "));
                update.push(' ');
            }
        }
        update
    }

    /// Aliases for the reserved words among the attribute names that are used.
    fn names(&self) -> Option<HashMap<String, String>> {
        let names: HashMap<_, _> = [
            ("#ttl", TTL),
            ("#stream", STREAM),
            ("#region", REGION),
            ("#definition", DEFINITION),
        ]
        .into_iter()
        .filter(|(alias, _)| {
            let mut clauses = self.set.iter().chain(&self.remove);
            clauses.any(|clause| clause.contains(alias))
        })
        .map(|(alias, name)| (alias.to_owned(), name.to_owned()))
        .collect();
        (!names.is_empty()).then_some(names)
    }

    fn parts(self) -> Parts {
        Parts {
            update: self.update(),
            condition: (!self.conditions.is_empty()).then(|| self.conditions.join(" AND ")),
            names: self.names(),
            values: (!self.values.is_empty()).then_some(self.values),
        }
    }

    /// The change as a request of its own. A refusal returns the item as it is.
    pub(crate) fn request(
        self,
        request: UpdateItemFluentBuilder,
        table: &str,
        key: Item,
    ) -> UpdateItemFluentBuilder {
        let parts = self.parts();
        request
            .table_name(table)
            .set_key(Some(key))
            .update_expression(parts.update)
            .set_condition_expression(parts.condition)
            .set_expression_attribute_names(parts.names)
            .set_expression_attribute_values(parts.values)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
    }

    /// The change as an action of a transaction. A refusal returns the item as it is.
    pub(crate) fn action(self, table: &str, key: Item) -> Result<TransactWriteItem, BuildError> {
        let parts = self.parts();
        let update = Update::builder()
            .table_name(table)
            .set_key(Some(key))
            .update_expression(parts.update)
            .set_condition_expression(parts.condition)
            .set_expression_attribute_names(parts.names)
            .set_expression_attribute_values(parts.values)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .build()?;
        Ok(TransactWriteItem::builder().update(update).build())
    }
}

struct Parts {
    update: String,
    condition: Option<String>,
    names: Option<HashMap<String, String>>,
    values: Option<Item>,
}
