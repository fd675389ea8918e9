//! Checks that the project of `docs/getting-started.md` compiles with exactly the manifest shown
//! there.
//!
//! The doctests also compile its code, but with more features than the page enables.

use std::fs;

use anyhow::{Context, Result};

use crate::process;
use crate::workspace;

const PAGE: &str = "docs/getting-started.md";

/// Creates the project beside the builds of the workspace, and checks it.
pub(super) async fn check() -> Result<()> {
    let page = fs::read_to_string(workspace::root().join(PAGE)).context(PAGE)?;
    let project = workspace::target("getting-started");
    fs::create_dir_all(project.join("src"))?;
    let crates = workspace::root().join("crates");
    let manifest = block(&page, "```toml")?.replace("../murmur/crates", &crates.to_string_lossy());
    // Keeps the project out of the workspace that contains its folder.
    fs::write(project.join("Cargo.toml"), manifest + "\n[workspace]\n")?;
    fs::write(project.join("src/main.rs"), block(&page, "```rust")?)?;
    let lock = "Cargo.lock";
    fs::copy(workspace::root().join(lock), project.join(lock))?;
    let mut cargo = process::cargo(["check", "--quiet"]);
    cargo
        .current_dir(&project)
        .env("CARGO_TARGET_DIR", project.join("target"))
        .env("RUSTFLAGS", "--deny warnings --allow dead_code");
    process::run(&mut cargo).await
}

/// The first block of `page` that starts with `fence`.
fn block(page: &str, fence: &str) -> Result<String> {
    let lines = page.lines().skip_while(|line| !line.starts_with(fence));
    let lines: Vec<&str> = lines.skip(1).take_while(|line| *line != "```").collect();
    let missing = || format!("{PAGE}: there is no block {fence}");
    (!lines.is_empty()).then_some(()).with_context(missing)?;
    Ok(lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_what_is_between_its_fences() {
        let page = "text\n```toml\n[package]\n```\n```rust,no_run\nfn main() {\n}\n```\n";
        assert_eq!(block(page, "```toml").unwrap(), "[package]\n");
        assert_eq!(block(page, "```rust").unwrap(), "fn main() {\n}\n");
        assert!(block(page, "```sh").is_err());
    }
}
