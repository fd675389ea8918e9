//! Checks that the crates can be published, both under their names here and under the name that
//! publishing needs.
//!
//! `docs/publishing.md` describes the steps.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use crate::process;
use crate::workspace::{self, Member};

const CORE: &str = "murmur-core";

/// The folder where packages are created and compiled, apart from the builds of the workspace.
const TARGET: &str = "packages";

/// A placeholder for the name that the owner of the project will choose.
const NEW_NAME: &str = "murmur-pipelines";

/// Packages every crate and compiles the packages.
pub(super) async fn check() -> Result<()> {
    package(workspace::root()).await
}

/// Applies the rename that publishing needs in a copy, then packages and compiles the copy.
pub(super) async fn check_rename() -> Result<()> {
    let members = workspace::members().await?;
    let copy = workspace::target("rename");
    copy_workspace(&copy).await?;
    rename_core(&copy)?;
    package(&copy).await?;

    let target = workspace::target(TARGET);
    let core = packaged(&target, NEW_NAME)?;
    let library = core
        .get("lib")
        .and_then(|lib| lib.get("name"))
        .and_then(toml::Value::as_str);
    if library != Some("murmur_core") {
        bail!("{NEW_NAME} is packaged with the library {library:?}, not murmur_core");
    }
    let is_dependent = |member: &&Member| member.dependencies.iter().any(|name| name == CORE);
    for dependent in members
        .iter()
        .filter(|member| member.published)
        .filter(is_dependent)
    {
        let manifest = packaged(&target, &dependent.name)?;
        let core = manifest
            .get("dependencies")
            .and_then(|dependencies| dependencies.get(CORE));
        let package = core
            .and_then(|core| core.get("package"))
            .and_then(toml::Value::as_str);
        if package != Some(NEW_NAME) {
            bail!(
                "{} is packaged with {CORE} from {package:?}, not {NEW_NAME}",
                dependent.name
            );
        }
        println!("{}: {CORE} comes from {NEW_NAME}", dependent.name);
    }
    Ok(())
}

/// Runs `cargo package` for the workspace at `root`.
async fn package(root: &Path) -> Result<()> {
    let target = workspace::target(TARGET);
    forget_earlier(&target)?;
    let mut package = process::cargo(["package", "--workspace", "--allow-dirty", "--quiet"]);
    package.current_dir(root).env("CARGO_TARGET_DIR", &target);
    // Packages are compiled with cargo's own profile, not the workspace's. Full debug information
    // takes 9 GB.
    package
        .env("CARGO_PROFILE_DEV_DEBUG", "none")
        .env("CARGO_INCREMENTAL", "0");
    process::run(&mut package).await
}

/// Removes the packages of an earlier run. Cargo treats a package of one name and version as
/// immutable: it would compile the earlier source, or use its build output.
fn forget_earlier(target: &Path) -> Result<()> {
    let ours = |entry: &Path| {
        let name = entry.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with("murmur-"))
    };
    let cargo_home = match env::var_os("CARGO_HOME") {
        Some(home) => home.into(),
        None => env::home_dir()
            .context("there is no home folder")?
            .join(".cargo"),
    };
    // The registry that cargo creates from the packages has no host, so its folder name starts like
    // this.
    let registries = entries(&cargo_home.join("registry/src"))?;
    let local = registries.iter().filter(|registry| {
        let name = registry.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with('-'))
    });
    let mut stale = entries(&target.join("debug/.fingerprint"))?;
    for registry in local {
        stale.extend(entries(registry)?);
    }
    for folder in stale.iter().filter(|folder| ours(folder)) {
        fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    Ok(())
}

/// The entries of a folder; empty if it does not exist.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

/// The manifest of `name` in its package.
fn packaged(target: &Path, name: &str) -> Result<toml::Table> {
    let folder = format!("package/{name}-{}", env!("CARGO_PKG_VERSION"));
    let path = target.join(folder).join("Cargo.toml");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    text.parse().with_context(|| path.display().to_string())
}

/// Copies the files that git tracks, and new ones that it does not ignore, to `to`.
async fn copy_workspace(to: &Path) -> Result<()> {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    let mut git = Command::new("git");
    git.args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]);
    let files = process::read(git.current_dir(workspace::root())).await?;
    for file in files.split('\0').filter(|file| !file.is_empty()) {
        let (from, to) = (workspace::root().join(file), to.join(file));
        // Deleted in the work tree, but not committed.
        if !from.exists() {
            continue;
        }
        fs::create_dir_all(to.parent().context("a file is in a folder")?)?;
        fs::copy(&from, &to).with_context(|| from.display().to_string())?;
    }
    Ok(())
}

/// Makes the three edits of `docs/publishing.md` under `root`.
fn rename_core(root: &Path) -> Result<()> {
    let edits = [
        (
            "Cargo.toml",
            "murmur-core = { path".to_owned(),
            format!("murmur-core = {{ package = \"{NEW_NAME}\", path"),
        ),
        (
            "crates/murmur-core/Cargo.toml",
            "name = \"murmur-core\"".to_owned(),
            format!("name = \"{NEW_NAME}\""),
        ),
        (
            "crates/murmur-core/Cargo.toml",
            "\n[lints]".to_owned(),
            "\n[lib]\nname = \"murmur_core\"\n\n[lints]".to_owned(),
        ),
    ];
    for (file, old, new) in edits {
        let path = root.join(file);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        if text.matches(&old).count() != 1 {
            bail!("{file} does not have {old:?} once: see docs/publishing.md");
        }
        fs::write(&path, text.replace(&old, &new))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    /// Whether a line of the page starts with `begin`.
    fn documented(begin: &str) -> bool {
        let text = fs::read_to_string(workspace::root().join("docs/publishing.md")).unwrap();
        text.lines().any(|line| line.starts_with(begin))
    }

    #[tokio::test]
    async fn the_documented_command_publishes_nothing_but_what_is_to_be() {
        let members = workspace::members().await.unwrap();
        let excluded: Vec<_> = members.iter().filter(|member| !member.published).collect();
        assert_eq!(excluded.len(), 3);
        let excludes: String = excluded
            .iter()
            .map(|member| format!(" --exclude {}", member.name))
            .collect();
        for command in [
            "cargo package --workspace".to_owned(),
            format!("cargo publish --workspace{excludes}"),
        ] {
            assert!(
                documented(&command),
                "docs/publishing.md does not have: {command}"
            );
        }
    }

    #[test]
    fn the_rename_is_what_the_docs_say() {
        let copy = TempDir::new().unwrap();
        fs::create_dir_all(copy.path().join("crates/murmur-core")).unwrap();
        let files = ["Cargo.toml", "crates/murmur-core/Cargo.toml"];
        for file in files {
            fs::copy(workspace::root().join(file), copy.path().join(file)).unwrap();
        }
        rename_core(copy.path()).unwrap();
        for file in files {
            let read = |root: &Path| fs::read_to_string(root.join(file)).unwrap();
            let (old, new) = (read(workspace::root()), read(copy.path()));
            let added: Vec<_> = new.lines().filter(|line| !old.contains(*line)).collect();
            assert!(!added.is_empty());
            for line in added {
                assert!(documented(line), "docs/publishing.md does not have: {line}");
            }
        }
        // The rename cannot be applied twice.
        assert!(rename_core(copy.path()).is_err());
    }
}
