//! The manifest that the README gives to copy is the one tested here.

use std::collections::BTreeSet;

use toml::{Table, Value};

use crate::support::section;

const OWN: &str = include_str!("../../Cargo.toml");
const WORKSPACE: &str = include_str!("../../../../Cargo.toml");

/// Where the dependency comes from, whether its default features are on, and its others.
type Dependency = (String, String, bool, BTreeSet<String>);

fn features(dependency: &Value) -> impl Iterator<Item = String> {
    let list = dependency.get("features").and_then(Value::as_array);
    let names = list.into_iter().flatten().filter_map(Value::as_str);
    names.map(str::to_owned).collect::<Vec<_>>().into_iter()
}

fn read(name: &str, dependency: &Value) -> Dependency {
    let text = |key: &str| dependency.get(key).and_then(Value::as_str);
    let from = if dependency.get("path").is_some() || text("git").is_some() {
        "Murmur's repository"
    } else {
        dependency.as_str().or(text("version")).unwrap_or_default()
    };
    let defaults = dependency.get("default-features").and_then(Value::as_bool);
    (
        name.to_owned(),
        from.to_owned(),
        defaults.unwrap_or(true),
        features(dependency).collect(),
    )
}

#[test]
fn the_manifest_to_copy_has_the_dependencies_that_are_tested() {
    let own: Table = OWN.parse().unwrap();
    let workspace: Table = WORKSPACE.parse().unwrap();
    let shared = &workspace["workspace"]["dependencies"];
    let mut tested = BTreeSet::new();
    for (name, dependency) in own["dependencies"].as_table().unwrap() {
        let mut merged = read(name, &shared[name]);
        merged.3.extend(features(dependency));
        tested.insert(merged);
    }

    let block = section("manifest");
    let block = block
        .trim()
        .trim_start_matches("```toml")
        .trim_end_matches("```");
    let copied: Table = block.parse().unwrap();
    let copied = copied["dependencies"].as_table().unwrap().iter();
    let copied: BTreeSet<_> = copied.map(|(name, value)| read(name, value)).collect();
    assert_eq!(copied, tested);
}
