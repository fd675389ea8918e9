//! A filter that the service applies.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::iter::Peekable;
use std::str::Chars;

use crate::attributes::{self, Attributes, RowError};

/// The functions of an expression ("Comparison operator and function reference", Amazon DynamoDB
/// Developer Guide).
const FUNCTIONS: [&str; 6] = [
    "attribute_exists",
    "attribute_not_exists",
    "attribute_type",
    "begins_with",
    "contains",
    "size",
];

/// The keywords that connect conditions, in upper or lower case.
const KEYWORDS: [&str; 5] = ["AND", "BETWEEN", "IN", "NOT", "OR"];

/// A filter expression with its names and values.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    pub(crate) expression: String,
    pub(crate) names: HashMap<String, String>,
    pub(crate) values: Attributes,
}

impl Filter {
    /// The filter in words; every process gives the same text for the same filter.
    pub(crate) fn settings(&self) -> Result<String, RowError> {
        let names: BTreeMap<_, _> = self.names.iter().collect();
        let mut values = serde_json::json!(attributes::item(self.values.clone())?);
        values.sort_all_objects();
        let (expression, names) = (&self.expression, serde_json::json!(names));
        Ok(format!(
            "filter `{expression}`, names {names}, values {values}"
        ))
    }

    /// The attributes that the filter looks at; of a document path, the first. Text that cannot be
    /// parsed is listed as it is.
    pub(crate) fn attributes(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut rest = self.expression.chars().peekable();
        // Whether the next word belongs to the path before it.
        let mut in_path = false;
        while let Some(&first) = rest.peek() {
            let was_in_path = std::mem::take(&mut in_path);
            match first {
                '.' => {
                    rest.next();
                    in_path = true;
                }
                '[' => {
                    for passed in rest.by_ref() {
                        if passed == ']' {
                            break;
                        }
                    }
                }
                ':' => {
                    rest.next();
                    word(&mut rest);
                }
                '#' => {
                    rest.next();
                    let name = format!("#{}", word(&mut rest));
                    if !was_in_path {
                        found.insert(self.names.get(&name).cloned().unwrap_or(name));
                    }
                }
                '(' | ')' | ',' | '=' | '<' | '>' => {
                    rest.next();
                }
                space if space.is_whitespace() => {
                    rest.next();
                    in_path = was_in_path;
                }
                _ => {
                    let name = word(&mut rest);
                    if name.is_empty() {
                        found.insert(rest.next().into_iter().collect());
                    } else if !was_in_path && !is_no_name(&name, &mut rest) {
                        found.insert(name);
                    }
                }
            }
        }
        found
    }
}

/// Takes the leading letters, digits and underscores.
fn word(rest: &mut Peekable<Chars<'_>>) -> String {
    let mut word = String::new();
    while let Some(next) = rest.next_if(|next| next.is_alphanumeric() || *next == '_') {
        word.push(next);
    }
    word
}

fn is_no_name(word: &str, rest: &mut Peekable<Chars<'_>>) -> bool {
    if KEYWORDS
        .iter()
        .any(|known| word.eq_ignore_ascii_case(known))
    {
        return true;
    }
    while rest.next_if(|next| next.is_whitespace()).is_some() {}
    rest.peek() == Some(&'(') && FUNCTIONS.contains(&word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(expression: &str) -> Vec<String> {
        let names = [("#s", "status"), ("#id", "id"), ("#part", "part")];
        let filter = Filter {
            expression: expression.to_owned(),
            names: names.map(|(name, of)| (name.into(), of.into())).into(),
            values: Attributes::new(),
        };
        filter.attributes().into_iter().collect()
    }

    #[test]
    fn names_and_placeholders_are_found_and_nothing_else() {
        for (expression, wanted) in [
            ("", vec![]),
            ("price > :least", vec!["price"]),
            ("#s = :open", vec!["status"]),
            (
                "NOT (price<:a OR #s<>:b)and id>=:c",
                vec!["id", "price", "status"],
            ),
            ("price BETWEEN :a AND :b", vec!["price"]),
            ("color in (:a, :b)", vec!["color"]),
            ("begins_with(#id, :from)", vec!["id"]),
            ("attribute_exists (address.city)", vec!["address"]),
            ("address . city = :c", vec!["address"]),
            ("#s.#part[3].price = :p", vec!["status"]),
            ("size(tags) > :n", vec!["tags"]),
            ("size > :n", vec!["size"]),
            ("contains(a, b)", vec!["a", "b"]),
            (
                "attribute_type(x, :t) and attribute_not_exists(y)",
                vec!["x", "y"],
            ),
        ] {
            assert_eq!(attributes(expression), wanted, "{expression}");
        }
    }

    #[test]
    fn what_cannot_be_understood_counts_as_an_attribute() {
        for (expression, wanted) in [
            ("#other = :v", vec!["#other"]),
            ("resembles(id, :v)", vec!["id", "resembles"]),
            ("id = 7", vec!["7", "id"]),
            ("id ! :v", vec!["!", "id"]),
            ("id = 'x'", vec!["'", "id", "x"]),
            ("[id", vec![]),
        ] {
            assert_eq!(attributes(expression), wanted, "{expression}");
        }
    }

    #[test]
    fn the_settings_are_the_same_text_for_the_same_filter() {
        use aws_sdk_dynamodb::types::AttributeValue;
        let words = || {
            let place = |n: i32| (format!("p{n}"), AttributeValue::N(n.to_string()));
            let filter = Filter {
                expression: "a = :a".into(),
                names: (0..20).map(|n| (format!("#{n}"), n.to_string())).collect(),
                values: HashMap::from([
                    (":a".into(), AttributeValue::M((0..20).map(place).collect())),
                    (":b".into(), AttributeValue::Bool(true)),
                ]),
            };
            filter.settings().unwrap()
        };
        let first = words();
        assert!(
            first.contains("\"#7\":\"7\"") && first.contains("\":b\""),
            "{first}"
        );
        for _ in 0..20 {
            assert_eq!(words(), first);
        }
    }
}
