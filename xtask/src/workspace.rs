//! The workspace as cargo reports it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::process;

/// The folder of the workspace's `Cargo.toml`.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}

/// A folder under `target/`, for files that a task downloads or creates.
pub(crate) fn target(folder: &str) -> PathBuf {
    root().join("target").join(folder)
}

/// Whether this runs on a build server, detected by the variable that all of them set.
pub(crate) fn on_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true")
}

/// A member of the workspace.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    pub(crate) published: bool,
    /// The features, without `default`.
    pub(crate) features: Vec<String>,
    /// The names of its normal dependencies, including optional ones.
    pub(crate) dependencies: Vec<String>,
}

impl Member {
    /// The flags of the feature sets to check: none, each by itself, all.
    pub(crate) fn feature_sets(&self) -> Vec<Vec<String>> {
        let none = "--no-default-features".to_owned();
        let each = self
            .features
            .iter()
            .map(|name| vec![none.clone(), format!("--features={name}")]);
        let mut sets = vec![vec![none.clone()]];
        sets.extend(each);
        if self.features.len() > 1 {
            sets.push(vec!["--all-features".to_owned()]);
        }
        sets
    }
}

/// The members, ordered by name.
pub(crate) async fn members() -> Result<Vec<Member>> {
    let text = process::read(&mut process::cargo([
        "metadata",
        "--no-deps",
        "--format-version=1",
    ]))
    .await
    .context("cargo metadata")?;
    let metadata: Value = serde_json::from_str(&text).context("cargo metadata")?;
    let mut members: Vec<_> = list(&metadata["packages"]).map(member).collect();
    members.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(members)
}

fn member(package: &Value) -> Member {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let normal = list(&package["dependencies"]).filter(|dependency| dependency["kind"].is_null());
    Member {
        name: text(&package["name"]),
        folder: Path::new(&text(&package["manifest_path"]))
            .parent()
            .map(Path::to_owned)
            .unwrap_or_default(),
        published: is_published(package),
        features: package["features"]
            .as_object()
            .into_iter()
            .flat_map(|features| features.keys().cloned())
            .filter(|feature| feature != "default")
            .collect(),
        dependencies: normal.map(|dependency| text(&dependency["name"])).collect(),
    }
}

/// Whether a package is published. `publish = false` is an empty list of registries. A crate that
/// others of the workspace depend on cannot use it, because `cargo package --workspace` would find
/// no registry to resolve the crate from; it uses `[package.metadata.murmur] published = false`
/// instead.
fn is_published(package: &Value) -> bool {
    let registries = package["publish"].as_array();
    let said = &package["metadata"]["murmur"]["published"];
    registries.is_none_or(|registries| !registries.is_empty()) && *said != Value::Bool(false)
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_member_is_read_from_the_metadata() {
        let package = json!({
            "name": "murmur-x",
            "manifest_path": "/ws/crates/murmur-x/Cargo.toml",
            "publish": null,
            "features": { "default": ["runtime"], "runtime": [] },
            "dependencies": [
                { "name": "murmur-state", "kind": null },
                { "name": "murmur-testkit", "kind": "dev" },
            ],
        });
        let expected = Member {
            name: "murmur-x".into(),
            folder: "/ws/crates/murmur-x".into(),
            published: true,
            features: vec!["runtime".into()],
            dependencies: vec!["murmur-state".into()],
        };
        assert_eq!(member(&package), expected);
    }

    #[test]
    fn the_feature_sets_are_none_each_and_all() {
        let mut x = member(&json!({ "features": { "default": [], "a": [] } }));
        let sets = |member: &Member| {
            member
                .feature_sets()
                .iter()
                .map(|flags| flags.join(" "))
                .collect::<Vec<_>>()
        };
        let none = "--no-default-features";
        assert_eq!(sets(&x), [none.to_owned(), format!("{none} --features=a")]);
        x.features.push("b".into());
        assert_eq!(
            sets(&x)[2..],
            [format!("{none} --features=b"), "--all-features".to_owned()]
        );
    }

    #[test]
    fn publish_false_is_seen() {
        assert!(!member(&json!({ "publish": [] })).published);
        assert!(member(&json!({ "publish": ["crates-io"] })).published);
        let said = json!({ "metadata": { "murmur": { "published": false } } });
        assert!(!member(&said).published);
    }
}
