//! `cargo xtask book`: builds a book from the pages in `docs/`.

use anyhow::{Context, Result};
use tokio::process::Command;

use crate::{process, workspace};

/// Build a book from the pages in docs/, in target/book.
///
/// Runs `mdbook build`, which needs mdBook: `cargo install mdbook`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Open it in a browser
    #[arg(long)]
    open: bool,
}

/// Returns whether the book was built. Cancel safe: mdBook is stopped.
pub(crate) async fn run(Args { open }: Args) -> Result<bool> {
    let mut mdbook = Command::new("mdbook");
    mdbook.arg("build").current_dir(workspace::root());
    if open {
        mdbook.arg("--open");
    }
    let made = process::succeeds(&mut mdbook).await;
    made.context("mdBook is needed; install it with `cargo install mdbook`")
}
